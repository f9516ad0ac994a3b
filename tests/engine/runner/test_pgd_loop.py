"""The test loop of PGD; robustness() and mmkd robustness."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.classification import classifier, config, distiller
from helpers.families import only_onedl
from helpers.runs import run_config, train
from helpers.shells import config_file, here, names
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import Tensor

from mmkd.__main__ import main
from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.apis.results import read_row
from mmkd.apis.robustness import _spread, robustness


def attacked(cfg: Any, checkpoint: Path, **attack: Any) -> tuple[Runner, dict[str, float]]:
    """Test under attack, as a config says it."""
    cfg.load_from, cfg.test_cfg = str(checkpoint), dict(type='mmkd.PGDTestLoop', **attack)
    runner = build_runner(prepare_config(cfg))
    return runner, runner.test()


@only_onedl('its numbers differ, and 100 iterations get 5 of 6 images right there, not all')
def test_a_classifier_that_reads_colours_fails_where_they_may_change(tmp_path: Path) -> None:
    """What is trained to tell three colours is right on all, until the attack may move a pixel by
    half its range.
    """
    cfg = config(tmp_path, classifier(4), max_iters=100)
    cfg.merge_from_dict(
        dict(train_cfg=dict(val_interval=100), default_hooks=dict(checkpoint=dict(interval=100)))
    )
    train(cfg)
    results = {}
    for epsilon in (0.0, 0.5):
        fresh = config(tmp_path, classifier(4), name=f'attack_{epsilon}')
        results[epsilon] = attacked(
            fresh, tmp_path / 'run/iter_100.pth', epsilon=epsilon, step=0.1
        )[1]['accuracy/top1']
    assert results[0.0] == 100
    assert results[0.5] < 50


def test_of_a_distiller_the_student_that_predicts_is_attacked(tmp_path: Path) -> None:
    """The same student as a plain model gives the same numbers; objectives and teacher have no part
    in it.
    """
    model = distiller()
    train(config(tmp_path, model, max_iters=1))
    whole = attacked(config(tmp_path, model, name='whole'), tmp_path / 'run/iter_1.pth')[1]
    alone = attacked(
        config(tmp_path, classifier(2), name='alone'), tmp_path / 'run/student/iter_1.pth'
    )[1]
    assert whole == alone


def test_segmentors_keep_their_padding(tmp_path: Path) -> None:
    """Images of 40×40 in batches padded to 48×48 are attacked inside alone."""
    from helpers.tiny import segmentor

    student = segmentor(4, num_classes=3, size=32)
    student['data_preprocessor'].update(test_cfg=dict(size_divisor=48))
    runner = build_runner(prepare_config(run_config(tmp_path, student)))
    loop = LOOPS.build(
        dict(type='mmkd.PGDTestLoop', steps=2),
        default_args=dict(
            runner=runner,
            dataloader=runner.cfg.test_dataloader,
            evaluator=runner.cfg.test_evaluator,
        ),
    )
    seen: list[tuple[Tensor, str]] = []
    labels: list[Tensor] = []
    forward = runner.model.forward

    def spy(inputs: Tensor, samples: Any = None, mode: str = 'tensor') -> Any:
        seen.append((inputs.detach().clone(), mode))
        labels.append(samples[0].gt_sem_seg.data)
        return forward(inputs, samples, mode)

    runner.model.forward = spy
    runner.call_hook('before_run')
    loop.run()
    clean = runner.model.data_preprocessor(next(iter(loop.dataloader)), False)['inputs']
    assert [mode for _, mode in seen[:3]] == ['loss', 'loss', 'predict']
    assert labels[0].shape == (1, 48, 48), 'the loss is taken where it belongs'
    assert (labels[0][:, 40:] == 255).all()
    assert (labels[0][:, :, 40:] == 255).all()
    assert labels[0][:, :40, :40].max() < 3
    assert labels[2].shape == (1, 40, 40), 'what is scored stays as it is'
    moved = seen[2][0] - clean
    assert clean.shape[-2:] == (48, 48)
    assert moved[..., :40, :40].abs().gt(0).float().mean() > 0.9
    assert moved[..., 40:, :].abs().max() == 0
    assert moved[..., 40:].abs().max() == 0
    unit = 255 / runner.model.data_preprocessor.std.view(3, 1, 1)
    assert (moved.abs() <= 0.031 * unit + 1e-5).all()


def test_loop_refusals(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(run_config(tmp_path)))
    parts = dict(
        runner=runner, dataloader=runner.cfg.test_dataloader, evaluator=runner.cfg.test_evaluator
    )
    with pytest.raises(
        TypeError, match=r"PGDTestLoop got an unknown key 'epsilom'; did you mean 'epsilon'"
    ):
        LOOPS.build(dict(type='mmkd.PGDTestLoop', epsilom=0.1), default_args=parts)
    with pytest.raises(ValueError, match='precision of the weights. Mend: fp16=False'):
        LOOPS.build(dict(type='mmkd.PGDTestLoop', fp16=True), default_args=parts)


# ---------------------------------------------------------------------- robustness


def test_conditions_share_images_and_the_mean_is_one(tmp_path: Path) -> None:
    """The images of every condition are the same evenly spread ones; 'corrupted' is the mean over
    the corruptions.
    """
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    paths: list[list[str]] = []
    predict = runner.model.forward

    def spy(inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode == 'predict':
            paths[-1].extend(sample.img_path for sample in data_samples)
        return predict(inputs, data_samples, mode)

    runner.model.forward = spy
    found: dict[str, dict[str, float]] = {}
    paths.append([])
    for condition, metrics in robustness(
        runner, ['contrast', 'gaussian_noise'], [5], 6, dict(steps=1)
    ):
        found[condition] = metrics
        paths.append([])
    assert list(found) == ['clean', 'contrast', 'gaussian_noise', 'corrupted', 'PGD']
    whole = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    spread = [whole.get_data_info(i)['img_path'] for i in (0, 2, 4, 7, 9, 11)]
    assert [p for p in paths if p] == [spread] * 4
    mean = (found['contrast']['accuracy/top1'] + found['gaussian_noise']['accuracy/top1']) / 2
    assert found['corrupted'] == {'accuracy/top1': mean}


def test_corruption_comes_last_before_packing(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(run_config(tmp_path)))
    before = runner.cfg.test_dataloader.dataset.pipeline
    steps = [step.type for step in before]
    list(robustness(runner, ['contrast'], [1, 5]))
    loader = runner.test_loop.dataloader
    assert [type(step).__name__ for step in loader.dataset.pipeline.transforms] == [
        *steps[:-1],
        'Corrupt',
        steps[-1],
    ]
    assert loader.dataset.pipeline.transforms[-2].severity == 5
    assert [step.type for step in runner.cfg.test_dataloader.dataset.pipeline] == steps, (
        'the config stays'
    )


@pytest.mark.parametrize(
    ('indices', 'there'),
    [(None, range(12)), ([11, 3, 5], (11, 3, 5)), (4, range(4)), (-3, (9, 10, 11))],
)
def test_images_are_of_those_that_the_test_set_has(
    tmp_path: Path, indices: Any, there: Any
) -> None:
    cfg = config(tmp_path, classifier(4))
    cfg.test_dataloader.dataset.indices = indices
    dataset = cfg.test_dataloader.dataset
    assert _spread(dataset, 99) == [*there]
    assert _spread(dataset, 2) == [there[0], there[-1]]


def test_predictions_of_a_test_stay_as_they_were(tmp_path: Path) -> None:
    """A metric that writes its predictions would write over them, the attacked ones last."""
    cfg = run_config(tmp_path)
    cfg.test_evaluator.output_dir = str(tmp_path / 'maps')
    runner = build_runner(prepare_config(cfg))
    runner.test()
    before = {path: path.read_bytes() for path in (tmp_path / 'maps').iterdir()}
    assert before
    list(robustness(runner, ['gaussian_noise'], [5], attack=dict(steps=1, epsilon=0.5)))
    assert {path: path.read_bytes() for path in (tmp_path / 'maps').iterdir()} == before
    assert runner.cfg.test_evaluator.output_dir == str(tmp_path / 'maps')


def test_wrapped_test_sets_do_where_nothing_is_corrupted(tmp_path: Path) -> None:
    cfg = run_config(tmp_path)
    cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.test_dataloader.dataset.copy()]
    )
    runner = build_runner(prepare_config(cfg))
    assert [name for name, _ in robustness(runner, [], attack=dict(steps=1))] == ['clean', 'PGD']
    with pytest.raises(ValueError, match='the test set ConcatDataset has no pipeline'):
        next(robustness(runner, [], images=2))


def test_robustness_refusals(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    with pytest.raises(
        ValueError, match="corruptions must be one of .* got 'contrasts'; did you mean 'contrast'"
    ):
        next(robustness(runner, ['contrasts']))
    with pytest.raises(ValueError, match='severities must be one of .* got 6'):
        next(robustness(runner, severities=[6]))
    with pytest.raises(ValueError, match='images must be a whole number of at least 1, got 0'):
        next(robustness(runner, images=0))
    runner.cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(
        ValueError, match='the test set ConcatDataset has no pipeline .* Mend: --cfg-options'
    ):
        next(robustness(runner))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('attack', 'kind', 'said'),
    [
        (dict(epsilon=float('nan')), ValueError, 'epsilon must be a finite number, 0 or above'),
        (dict(step=-1.0), ValueError, 'step must be a finite number above 0, got -1.0'),
        (dict(steps=0), ValueError, 'steps must be a whole number of at least 1, got 0'),
        (dict(epsilom=0.1), TypeError, "attack got an unknown key 'epsilom'; did you mean 'epsil"),
    ],
)
def test_an_attack_is_refused_before_the_first_condition(
    tmp_path: Path, attack: dict, kind: type[Exception], said: str
) -> None:
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    with pytest.raises(kind, match=said):
        next(robustness(runner, ['contrast'], attack=attack))


def test_what_is_named_twice_counts_once(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    names = ['contrast', 'brightness', 'contrast']
    found = [condition for condition, _ in robustness(runner, names, [3, 5, 3], images=2)]
    assert found == ['clean', 'contrast', 'brightness', 'corrupted']


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['--steps', '0', '--epsilon', '0.1'], '--steps 0 is none: --steps N'),
        (['--steps', '0', '--step', '0.1'], '--steps 0 is none: --steps N'),
        (
            ['--corruptions', '--severities', '3'],
            'are of corruptions, and --corruptions names none',
        ),
    ],
)
def test_flags_without_effect(flags: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(['robustness', 'x.py', 'x.pth', *flags])
    assert said in capsys.readouterr().err


def test_what_was_found_is_shown_though_it_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = config(tmp_path, classifier(4), max_iters=1)
    train(cfg)

    def cut_off(self: Any, idx: int, batch: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('mmkd.engine.runner.pgd_loop.PGDTestLoop.run_iter', cut_off)
    path = tmp_path / 'recipe.py'
    path.write_text(config(tmp_path, classifier(4), name='cut').pretty_text)
    flags = ['--corruptions', 'contrast', 'brightness', '--images', '2']
    with pytest.raises(SystemExit, match='130'):
        main(['robustness', str(path), str(tmp_path / 'run/iter_1.pth'), *flags])
    said = capsys.readouterr().out
    assert re.findall(r'^│ (\w+) ', said, re.MULTILINE) == [
        'clean',
        'contrast',
        'brightness',
        'corrupted',
    ]


def test_no_condition_is_left_as_the_result_of_the_run(tmp_path: Path) -> None:
    """mmkd report reads the newest test of a run: attacked numbers are none. The log stays."""
    runner = build_runner(prepare_config(run_config(tmp_path, log_level='INFO')))
    found = dict(robustness(runner, ['contrast'], images=2, attack=dict(steps=1)))
    assert list(found) == ['clean', 'contrast', 'corrupted', 'PGD']
    logs = Path(runner.log_dir)
    assert logs.parent == Path(runner.work_dir)
    assert [path.name for path in logs.parent.rglob('*.json')] == []
    assert 'condition 3 of 3: PGD' in (logs / f'{runner.timestamp}.log').read_text()
    with pytest.raises(FileNotFoundError, match='holds no result of a test'):
        read_row(runner.work_dir)
    runner.test()
    assert read_row(runner.work_dir).runs[0].per_class, 'a test is written as ever'


def test_tool_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = config_file(tmp_path, max_iters=1, name='first')
    monkeypatch.chdir(tmp_path)
    here('train.py', path, '--work-dir', 'work', *names('robust_train'), monkeypatch=monkeypatch)
    here(
        'robustness.py',
        path,
        'work/iter_1.pth',
        '--work-dir',
        'test',
        '--images',
        '3',
        '--corruptions',
        'contrast',
        '--severities',
        '3',
        '5',
        '--steps',
        '1',
        '--json',
        'found.json',
        *names('robust_test'),
        monkeypatch=monkeypatch,
    )
    found = json.loads((tmp_path / 'found.json').read_text())
    assert list(found) == ['clean', 'contrast', 'corrupted', 'PGD']
    assert found['contrast'] == found['corrupted']
    said = capfd.readouterr()
    printed = said.out
    assert 'condition 2 of 3: contrast' in printed + said.err
    assert f'{found["PGD"]["mIoU"]:.2f}' in printed
    assert 'severities [3, 5]' in printed
