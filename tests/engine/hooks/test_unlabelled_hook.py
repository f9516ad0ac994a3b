"""Runs with images without labels: what is said of them, that they resume exactly, and refusals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import peers
from helpers.detectors import detector
from helpers.runs import SGD, model_of, need_mmdet, run_config, train, write_images
from helpers.tiny import build, objectives, segmentor
from mmengine.config import Config
from mmengine.registry import MODELS

from mmkd.apis.prepare import prepare_config
from mmkd.engine.hooks import unlabelled as hook_module
from mmkd.engine.hooks.unlabelled import UnlabelledHook, check_reader, tell_images
from mmkd.utils.checkpoints import load_checkpoint_file


def mixed_config(folder: Path, labelled: int = 2, unlabelled: int = 2, **changes: Any) -> Config:
    """Return the config of a run on 6 images with labels and 5 others without."""
    if not (folder / 'more').exists():
        write_images(folder / 'more', 5, seed=1)
    changes.setdefault('model', model_of(critic=False))
    cfg = run_config(folder, optim_wrapper=dict(_delete_=True, **SGD), **changes)
    loader = cfg.train_dataloader
    loader.dataset = dict(
        type='mmkd.WithUnlabelled',
        dataset=loader.dataset,
        unlabelled=dict(data_root=str(folder / 'more' / 'img')),
    )
    loader.batch_size = 4
    loader.sampler = dict(type='mmkd.MixedSampler', labelled=labelled, unlabelled=unlabelled)
    return cfg


def weights(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    return load_checkpoint_file(str(folder / f'iter_{iteration}.pth'))['state_dict']


def test_the_log_and_the_record_say_how_many(tmp_path: Path):
    runner = train(mixed_config(tmp_path, log_level='INFO', max_iters=2))
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'mmkd: 6 images with labels and 5 without; 2 and 2 in a batch\n' in log
    assert 'labelled: 2  unlabelled: 2  loss:' in log
    scalars = runner.message_hub.log_scalars
    assert list(scalars['train/unlabelled'].data[0]) == [2, 2]
    record = json.loads((tmp_path / 'run/run.json').read_text())
    assert record['images'] == dict(labelled=6, unlabelled=5)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_whole_run(tmp_path: Path, workers: int):
    train(mixed_config(tmp_path, workers=workers, name='whole'))
    cfg = mixed_config(tmp_path, workers=workers, name='again')
    cfg.load_from = str(tmp_path / 'whole' / 'iter_2.pth')
    train(cfg, resume=True)
    whole, again = (weights(tmp_path / name, 4) for name in ('whole', 'again'))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_a_run_without_such_images_is_left_alone(tmp_path: Path):
    runner = train(run_config(tmp_path, max_iters=1))
    assert 'train/labelled' not in runner.message_hub.log_scalars
    assert 'images' not in json.loads((tmp_path / 'run/run.json').read_text())


def test_any_sampler_mixes(tmp_path: Path):
    """Without shares a batch holds what the order brings, at times one kind alone."""
    student = segmentor(4, num_classes=3, size=32, norm='GN', head='FCNHead')
    student['decode_head']['norm_cfg'] = student['backbone']['norm_cfg'] = dict(
        type='GN', num_groups=2
    )
    student['auxiliary_head']['norm_cfg'] = dict(type='GN', num_groups=2)
    model = model_of(critic=False, student=student, objectives=objectives(pair=None))
    cfg = mixed_config(tmp_path, model=model, max_iters=6)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_dataloader.batch_size = 2
    runner = train(cfg)
    own = runner.message_hub.log_scalars['train/labelled'].data[0]
    assert len(set(own)) > 1


def test_how_many_are_told_of_ranks(monkeypatch: pytest.MonkeyPatch):
    sampler = object.__new__(hook_module.MixedSampler)
    sampler.labelled, sampler.unlabelled = [4, 0], [4, 8]
    monkeypatch.setattr(hook_module, 'get_world_size', lambda: 2)
    assert tell_images(9, 7, sampler) == (
        '9 images with labels and 7 without; [4, 0] and [4, 8] in a batch of each rank'
    )


# ---------------------------------------------------------------------- refusals


def reader(weight: float = 1.0, **objectives: tuple[bool, bool]) -> Any:
    """Return a stand-in: objective -> whether it skips images without labels, and reads labels."""
    made = {
        name: SimpleNamespace(skips_unlabelled=skips, reads_annotations=reads)
        for name, (skips, reads) in objectives.items()
    }
    return SimpleNamespace(
        objectives=made, combinations={}, task_weight=weight, students={}, runs={}
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('model', 'images', 'error', 'message'),
    [
        (SimpleNamespace(), (2, 3), TypeError, '3 training images have no labels, and a Simple'),
        (reader(), (2, 3), ValueError, 'have no labels, and no objective learns from them. Mend'),
        (
            reader(a=(True, True), b=(True, False)),
            (2, 3),
            ValueError,
            r'no objective learns from them \(a, b pass them over\). Mend: a teacher, and an obj',
        ),
        (
            reader(a=(False, False)),
            (0, 3),
            ValueError,
            "none of the 3 training images has labels, but labels are needed by the students' own",
        ),
        (
            reader(0.0, a=(True, True), b=(False, False)),
            (0, 3),
            ValueError,
            r"labels are needed by objective 'a'. Mend: a labelled set beside them",
        ),
    ],
)
def test_images_that_are_of_no_use(model: Any, images: tuple, error: type, message: str):
    with pytest.raises(error, match=message):
        check_reader(model, *images)


def test_images_that_are_of_use():
    check_reader(reader(a=(False, False), b=(True, True)), 2, 3)
    check_reader(reader(0.0, a=(False, False)), 0, 3)


@pytest.mark.bad_input
def test_no_objective_reads_them(tmp_path: Path):
    masked = objectives(pair=None)
    masked['pixel']['reads'] = dict(mask='batch.labelled')
    cfg = mixed_config(tmp_path, model=model_of(critic=False, objectives=masked))
    with pytest.raises(ValueError, match=r'5 training images have no labels, and no objective'):
        train(cfg)


@pytest.mark.bad_input
def test_a_plain_model(tmp_path: Path):
    cfg = mixed_config(tmp_path, model=segmentor(4, num_classes=3, size=32))
    cfg.custom_hooks = [dict(type='mmkd.UnlabelledHook')]
    with pytest.raises(TypeError, match='5 training images have no labels, and a EncoderDecoder'):
        train(cfg)


@pytest.mark.bad_input
def test_shares_that_do_not_sum_to_the_batch(tmp_path: Path):
    cfg = mixed_config(tmp_path, unlabelled=3)
    message = (
        r'MixedSampler\(labelled=2, unlabelled=3\) does not sum to train_dataloader.batch_size=4'
    )
    with pytest.raises(ValueError, match=message):
        prepare_config(cfg)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('shares', 'refused'),
    [(([2, 2], [2, 2]), False), (([4, 0], [0, 4]), True), (([4, 2], [0, 2]), True), (None, True)],
)
def test_sync_bn_and_ranks_that_pass_differently(
    monkeypatch: pytest.MonkeyPatch, shares: tuple | None, refused: bool
):
    student = torch.nn.Sequential(torch.nn.SyncBatchNorm(2))
    run = SimpleNamespace(learns_labels=False)
    model = SimpleNamespace(students=dict(student=student), runs=dict(student=run), task_weight=1.0)
    sampler = None
    if shares is not None:
        sampler = object.__new__(hook_module.MixedSampler)
        sampler.labelled, sampler.unlabelled = shares
    hook_module._check_waiting(model, sampler)  # of one process
    monkeypatch.setattr(hook_module, 'get_world_size', lambda: 2)
    if refused:
        with pytest.raises(ValueError, match='SyncBN waits for every rank, but here a rank whose'):
            hook_module._check_waiting(model, sampler)
        model.task_weight, run.learns_labels = 0.0, True  # a level mutes the task at the moment
        with pytest.raises(ValueError, match='SyncBN waits for every rank'):
            hook_module._check_waiting(model, sampler)
        run.learns_labels = False
    hook_module._check_waiting(model, sampler)


@pytest.mark.bad_input
def test_a_head_that_asks_other_ranks_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """FCOS takes the mean number of its positions over ranks; a classifier asks nobody."""
    need_mmdet()
    monkeypatch.setattr(hook_module, 'get_world_size', lambda: 2)
    heads = [
        MODELS.build(detector(4) | dict(_scope_='mmdet')),
        MODELS.build(peers.classifier() | dict(_scope_='mmkd')),
    ]
    models = [
        SimpleNamespace(students=dict(student=head), runs={}, task_weight=1.0) for head in heads
    ]
    with pytest.raises(ValueError, match='FCOSHead waits for every rank.*share.* on every rank$'):
        hook_module._check_waiting(models[0], None)
    sampler = object.__new__(hook_module.MixedSampler)
    sampler.labelled, sampler.unlabelled = [2, 2], [2, 2]
    hook_module._check_waiting(models[0], sampler)
    hook_module._check_waiting(models[1], None)


@pytest.mark.bad_input
def test_boxes_are_made_by_annotators_too() -> None:
    """An image without labels has none, so that it weighs nothing where they alone count."""
    need_mmdet()
    net = dict(model=detector(4), scope='mmdet')

    def made(weight: float, noise: list | None = None, **options: Any) -> Any:
        where = dict(type='Boxes', **options)
        loss = dict(loss=dict(type='FeatureMatchingLoss'), on='feat', where=where)
        return build(
            dict(
                type='mmkd.Distiller',
                student=net,
                teacher=dict(net, allow_untrained=True),
                taps=dict(feat='neck[0]'),
                objectives=dict(near=loss),
                task_weight=weight,
                noise=noise,
            )
        )

    with pytest.raises(ValueError, match=r'no objective learns from them \(near pass them over'):
        check_reader(made(1.0), 2, 3)
    check_reader(made(1.0, outside=1.0), 2, 3)
    with pytest.raises(ValueError, match="labels are needed by objective 'near'"):
        check_reader(made(0.0, outside=1.0), 0, 3)
    with pytest.raises(ValueError, match="labels are read by objective 'near'"):
        made(0.0, [dict(type='InputMixup')])


def test_a_set_without_a_length_is_left_alone():
    hook = UnlabelledHook()
    loader = SimpleNamespace(dataset=iter([]))
    hook.before_train(SimpleNamespace(train_dataloader=loader))
    assert hook.images is None


@pytest.mark.bad_input
def test_a_combination_that_chooses_by_labels_needs_some() -> None:
    model = reader(a=(False, False))
    best = SimpleNamespace(where="teacher 'best'", rule=SimpleNamespace(reads_labels=True))
    model.task_weight, model.combinations = 0, dict(best=best)
    with pytest.raises(ValueError, match="labels are needed by teacher 'best'"):
        check_reader(model, 0, 3)
