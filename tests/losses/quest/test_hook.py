"""VocabularyHook: fitted before the first step, frozen, saved, checked."""

import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import two_ranks_vocabulary
from helpers.processes import ranks
from helpers.runs import model_of, run_config, train
from helpers.tiny import segmentor
from helpers.vocabularies import TAPS, WORDS, config, quest, without_hook
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import Tensor

from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.training_images import training_images
from mmkd.losses.quest.assignment_kl import pool_map, positions
from mmkd.losses.quest.fitting import (
    batches_of,
    fit_vocabularies,
    vocabulary_sources,
    write_vocabulary,
)
from mmkd.losses.quest.hook import VocabularyHook

ALL = 6 * 5 * 5  # images of 40×40 at stride 8


def features(runner: Runner, tap: str = 'feat', pooling: int = 1) -> Tensor:
    """Return the teacher's vectors of the whole training set, from the raw images, by a hook of our
    own.
    """
    teacher = runner.model.teacher
    module = teacher.decode_head.bottleneck if tap == 'feat' else teacher.backbone.layer1
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda *args: found.append(args[2]))
    for index in range(6):
        image = torch.from_numpy(
            cv2.imread(f'{runner.cfg.train_dataloader.dataset.data_root}/img/{index}.png')
        )
        with torch.no_grad():
            teacher((image.permute(2, 0, 1)[[2, 1, 0]][None].float() - 100) / 50, mode='tensor')
    handle.remove()
    return positions(pool_map(torch.cat(found), pooling))


def sources(runner: Runner) -> dict[str, Source]:
    return vocabulary_sources(runner.model.objectives, runner.model.runs)


def fit(runner: Runner, seed: int | None = None) -> None:
    """Fit all vocabularies anew, without the hook."""
    loader, seed = training_images(runner.cfg), runner.seed if seed is None else seed
    fit_vocabularies(sources(runner), loader, batches_of(runner.model), seed=seed)


class Watch(Hook):
    """Notes the words before the first step."""

    priority = 'LOWEST'

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if not hasattr(self, 'words'):
            self.words = {
                name: o.loss.vocabulary.words.clone() for name, o in runner.model.objectives.items()
            }


def state_of(path: Path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


def test_two_levels_are_fitted_before_the_first_step_and_frozen(tmp_path: Path) -> None:
    pooled = quest(reads=dict(student='student.later', teacher='teacher.early'))
    pooled['loss'] = dict(pooled['loss'], num_words=4, tau=0.5)
    del pooled['on']
    cfg = config(tmp_path, dict(deep=quest(), pooled=pooled))
    runner = Runner.from_cfg(cfg)
    watch, predictor = Watch(), runner.model.objectives['deep'].loss.predictor.weight.clone()
    runner.register_hook(watch)
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, VocabularyHook))
    saved = state_of(tmp_path / 'run/iter_4.pth')
    for name, tap, pooling, words in (('deep', 'feat', 1, WORDS), ('pooled', 'early', 2, 4)):
        vocabulary = runner.model.objectives[name].loss.vocabulary
        assert len(vocabulary.words) == words
        assert torch.equal(vocabulary.words, watch.words[name])
        assert torch.equal(
            vocabulary.words,
            saved[f'objectives.{name}.vocabulary.words'.replace(name, f'{name}.loss')],
        )
        # no vector is left out, pooled as the loss pools: the report is that of vectors taken by
        # hand
        by_hand = vocabulary.describe(features(runner, tap, pooling))
        assert hook.reports[name] == pytest.approx(by_hand, rel=1e-4)
        assert by_hand['vectors'] == ALL
    assert hook.reports['deep']['assignment'] == pytest.approx(2, rel=1e-3)
    assert hook.reports['pooled']['tau'] == 0.5
    assert not torch.equal(
        runner.model.objectives['deep'].loss.predictor.weight, predictor
    )  # it learns


def test_diagnostics_are_logged(tmp_path: Path) -> None:
    train(config(tmp_path, max_iters=2, val_interval=9))
    line = json.loads(
        next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()[0]
    )
    assert {key for key in line if key.startswith('deep.')} == {
        'deep.loss',
        'deep.confidence',
        'deep.perplexity',
        'deep.word_accuracy',
    }
    assert line['loss'] == pytest.approx(
        line['deep.loss'] + line['decode.loss_ce'] + line['aux.loss_ce'], rel=1e-3
    )


def test_ignored_positions_are_left_out(tmp_path: Path) -> None:
    """The label of the left half is void: two columns of five (nearest takes pixel 16 for the
    third).
    """
    cfg = config(tmp_path, dict(deep=quest(reads=dict(mask='batch.valid')), all=quest()))
    for path in (tmp_path / 'data/ann').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:, :16] = 255
        cv2.imwrite(str(path), labels)
    runner = Runner.from_cfg(cfg)
    hook = VocabularyHook()
    hook.before_train(runner)
    assert {name: report['vectors'] for name, report in hook.reports.items()} == dict(
        deep=6 * 5 * 3, all=ALL
    )
    kept = features(runner).view(6, 5, 5, -1)[:, :, 2:].flatten(0, 2)
    assert hook.reports['deep'] == pytest.approx(
        runner.model.objectives.deep.loss.vocabulary.describe(kept), rel=1e-4
    )
    train(cfg)  # and it trains with the mask


@pytest.mark.parametrize(
    ('hook', 'vectors'),
    [(dict(max_vectors=20), 20), (dict(images=3), 75), (dict(images=2, max_vectors=17), 17)],
)
def test_images_and_vectors_are_bounded_and_spread(
    tmp_path: Path, hook: dict, vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(
        'mmkd.losses.quest.fitter.positions', lambda *args: (taken.append(1), positions(*args))[1]
    )
    runner = Runner.from_cfg(config(tmp_path))
    fitter = VocabularyHook(**hook)
    fitter.before_train(runner)
    assert fitter.reports['deep']['vectors'] == vectors
    assert len(taken) == hook.get('images', 6)
    loader = training_images(runner.cfg, images=3)
    assert [
        sample.metainfo['img_path'][-5] for data in loader for sample in data['data_samples']
    ] == ['0', '2', '4']
    assert loader.batch_size == runner.cfg.val_dataloader.batch_size


def test_the_runs_randomness_is_left_alone(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path))

    def states() -> list[Any]:
        return [
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]

    before = states()
    VocabularyHook().before_train(runner)
    assert states() == before
    words = runner.model.objectives.deep.loss.vocabulary.words.clone()
    fit(runner)
    assert torch.equal(runner.model.objectives.deep.loss.vocabulary.words, words)
    fit(runner, runner.seed + 1)
    assert not torch.equal(runner.model.objectives.deep.loss.vocabulary.words, words)


def test_resume_is_exact_and_fits_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(tmp_path, name='straight'))
    train(config(tmp_path, max_iters=2))
    monkeypatch.setattr('mmkd.losses.quest.hook.fit_vocabularies', None)
    train(config(tmp_path), resume=True)
    straight, resumed = (state_of(tmp_path / name / 'iter_4.pth') for name in ('straight', 'run'))
    assert list(straight) == list(resumed)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    assert 'objectives.deep.loss.vocabulary.tau' in resumed


@pytest.mark.bad_input
def test_a_checkpoint_of_another_teacher_tap_or_pooling_is_refused(tmp_path: Path) -> None:
    def early(student: str, **changes: Any) -> Config:
        objective = quest(reads=dict(student=f'student.{student}', teacher='teacher.early'))
        del objective['on']
        return config(tmp_path, dict(deep=objective), max_iters=2, val_interval=9, **changes)

    train(early('early'))
    checkpoint = str(tmp_path / 'run/iter_2.pth')
    taps = {**TAPS, 'early': 'backbone.layer1'}  # the same tensor by another path
    for changed, message in (
        (
            early('early', name='teacher', load_from=checkpoint, randomness=dict(seed=5)),
            r'another teacher \(other weights',
        ),
        (
            early('early', name='tap', load_from=checkpoint, **{'model.taps': taps}),
            'another tap of the teacher, so',
        ),
        (early('later', name='pooling', load_from=checkpoint), 'another pooling of the teacher'),
    ):
        with pytest.raises(
            ValueError,
            match=f"objective 'deep': this vocabulary was fitted to {message}.*"
            'Mend: give back the .* or fit one anew: mmkd fit-vocabulary',
        ):
            train(changed)
    train(early('early', load_from=checkpoint, name='same'))


def test_words_written_by_hand_are_left_as_they_are(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path))
    vocabulary = runner.model.objectives.deep.loss.vocabulary
    words = torch.randn_like(vocabulary.words)
    vocabulary.words.copy_(words)
    vocabulary.tau.fill_(1.0)
    runner.train()
    assert torch.equal(vocabulary.words, words)


def test_runs_without_a_vocabulary_are_left_alone(tmp_path: Path) -> None:
    hook = HOOKS.build(dict(type='mmkd.VocabularyHook'))
    for name, model in (
        ('distiller', model_of(critic=False)),
        ('plain', segmentor(4, num_classes=3, size=32)),
    ):
        runner = Runner.from_cfg(run_config(tmp_path, model, name=name))
        for key in ('train_dataloader', 'val_dataloader'):
            runner.cfg.pop(key)
        hook.before_train(runner)
    assert hook.reports == {}


def test_another_data_loader_and_wrapped_data_sets(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path))
    val = runner.cfg.val_dataloader
    hook = VocabularyHook(dataloader=dict(dataset=val.dataset, batch_size=3, num_workers=1))
    hook.before_train(runner)
    assert hook.reports['deep']['vectors'] == ALL
    words = runner.model.objectives.deep.loss.vocabulary.words.clone()
    plain = runner.cfg.train_dataloader.dataset
    for dataset in (
        dict(type='RepeatDataset', times=3, dataset=plain),
        dict(
            type='ConcatDataset', datasets=[dict(plain, indices=3), dict(plain, indices=[3, 4, 5])]
        ),
    ):
        runner.cfg.train_dataloader.dataset = dataset
        fit(runner)
        torch.testing.assert_close(
            runner.model.objectives.deep.loss.vocabulary.words, words, rtol=1e-4, atol=1e-6
        )


@pytest.mark.bad_input
def test_a_file_of_another_teacher_is_refused_when_it_is_built(tmp_path: Path) -> None:
    """Without any hook: the Distiller itself looks at the fingerprint."""
    fitted = train(config(tmp_path, max_iters=1, val_interval=9))
    file = tmp_path / 'words.pth'
    write_vocabulary(file, sources(fitted)['deep'])
    objective = quest()
    objective['loss'].update(vocabulary=str(file))
    torch.save(fitted.model.teacher.state_dict(), tmp_path / 'teacher.pth')
    teacher = dict(
        model=segmentor(8, num_classes=3, size=32), checkpoint=str(tmp_path / 'teacher.pth')
    )
    same = MODELS.build(
        model_of(critic=False, taps=TAPS, objectives=dict(deep=objective), teacher=teacher)
    )
    assert torch.equal(
        same.objectives.deep.loss.vocabulary.words,
        fitted.model.objectives.deep.loss.vocabulary.words,
    )
    with pytest.raises(
        ValueError, match="objective 'deep': this vocabulary was fitted to another teacher"
    ):
        MODELS.build(model_of(critic=False, taps=TAPS, objectives=dict(deep=objective)))


@pytest.mark.bad_input
def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    few = quest()
    few['loss'] = dict(few['loss'], num_words=999)
    with pytest.raises(
        ValueError,
        match="objective 'deep': 150 vectors are too few for 999 words. Mend: num_words=",
    ):
        train(config(tmp_path, dict(deep=few)))
    cfg = config(tmp_path, name='no_val')
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg.pop(key)
    with pytest.raises(ValueError, match='lacks one of them. Mend: VocabularyHook.dataloader=dict'):
        train(cfg)
    peer = quest(reads=dict(student='one.feat', teacher='two.feat'))
    del peer['on']
    cfg = config(tmp_path, dict(deep=peer), name='peers')
    small = cfg.model.pop('student')
    cfg.model.students = dict(one=small, two=small)
    with pytest.raises(
        ValueError,
        match="objective 'deep' reads teacher='two.feat', which is no teacher .*Mend: a fr",
    ):
        train(cfg)
    with pytest.raises(
        ValueError,
        match="objective 'deep' has a connector of the teacher.*Mend: connectors=dict.stud",
    ):
        train(
            config(
                tmp_path,
                dict(deep=quest(connectors=dict(teacher=dict(type='Connector', in_channels=16)))),
                name='connector',
            )
        )
    for wrong in (dict(images=0), dict(max_vectors=0)):
        with pytest.raises(
            ValueError, match='(images|max_vectors) must be a whole number of at least 1, got 0'
        ):
            VocabularyHook(**wrong)


@pytest.mark.bad_input
def test_without_the_hook_the_first_step_says_what_to_do(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.custom_hooks = without_hook(cfg)
    with pytest.raises(
        ValueError, match="objective 'deep': .*the vocabulary is not fitted.*Mend: .*VocabularyHook"
    ):
        train(cfg)


@pytest.mark.slow
def test_two_ranks_share_the_vocabulary_of_one(tmp_path: Path) -> None:
    """Rank 0 fits what one process fits, and rank 1 receives words, tau and fingerprint."""
    runner = Runner.from_cfg(config(tmp_path))  # writes the images too
    VocabularyHook().before_train(runner)
    ranks(two_ranks_vocabulary.work, tmp_path)
    first, second = (json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2))
    assert first['fits'] == 1
    assert second['fits'] == 0
    assert first['buffers'] == second['buffers']
    assert first['predictor'] == second['predictor']
    for got, expected in zip(
        first['buffers'], runner.model.objectives.deep.loss.vocabulary.buffers(), strict=True
    ):
        torch.testing.assert_close(
            torch.tensor(got).double(), expected.double().flatten(), rtol=1e-5, atol=1e-7
        )
