"""TeacherCheckHook: the quality of a teacher is what evaluating it by hand gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import model_of, run_config, train
from helpers.tiny import preprocessor, segmentor
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.loops import BaseLoop

from mmkd.engine.hooks import TeacherCheckHook


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A teacher that has learnt something, with statistics of its own; its checkpoint and its
    model.
    """
    folder = tmp_path_factory.mktemp('teacher')
    other = preprocessor(32, mean=120.0, std=30.0, bgr_to_rgb=False)
    model = segmentor(8, num_classes=3, size=32, data_preprocessor=other)
    cfg = run_config(folder, model, max_iters=60, interval=60, val_interval=99)
    cfg.param_scheduler = []
    train(cfg)
    return Path(cfg.work_dir) / 'iter_60.pth', model


@pytest.fixture
def runner(trained: tuple[Path, dict], tmp_path: Path) -> Runner:
    """A Runner that has not started: the hook is called by the tests."""
    checkpoint, model = trained
    teacher = dict(model=model, checkpoint=str(checkpoint))
    return Runner.from_cfg(run_config(tmp_path, model_of(critic=False, teacher=teacher)))


def miou_by_hand(teacher: Any, dataset: Any, images: int | None = None) -> float:
    """Predict from the raw images with the teacher's own preprocessor; the mean of intersections
    over unions.
    """
    table = np.zeros((3, 3))
    for index in range(len(dataset) if images is None else images):
        data = dataset[index]
        truth = data['data_samples'].gt_sem_seg.data[0].numpy()
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        with torch.no_grad():
            predicted = teacher.test_step(batch)[0].pred_sem_seg.data[0].numpy()
        np.add.at(table, (truth, predicted), 1)
    inter = np.diag(table)
    return 100 * np.nanmean(inter / (table.sum(0) + table.sum(1) - inter))


def warnings_of(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(runner.logger, 'handlers', [])
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    return said


@pytest.mark.parametrize('max_batches', [None, 2])
def test_the_logged_miou_is_that_of_an_evaluation_by_hand(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, max_batches: int | None
) -> None:
    said = warnings_of(runner, monkeypatch)
    told: list[str] = []
    monkeypatch.setattr(runner.logger, 'info', told.append)
    hook = TeacherCheckHook(max_batches=max_batches)
    hook.before_train(runner)
    dataset = runner.val_loop.dataloader.dataset
    images = None if max_batches is None else max_batches * runner.val_loop.dataloader.batch_size
    expected = miou_by_hand(runner.model.teacher, dataset, images)
    assert hook.results['teacher']['mIoU'] == pytest.approx(
        expected, abs=0.006
    )  # mmseg rounds to two digits
    assert expected > 55
    assert told[-1].startswith("teacher 'teacher' on the validation set: aAcc ")
    assert f'mIoU {hook.results["teacher"]["mIoU"]:.4g}' in told[-1]
    assert said == []
    assert not runner.model.teacher.training
    assert not any(p.requires_grad for p in runner.model.teacher.parameters())


def test_a_run_begins_with_it_and_a_resumed_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    evaluate = TeacherCheckHook._evaluate

    def count(hook: TeacherCheckHook, runner: Runner, model: Any, name: str) -> dict:
        calls.append(runner.iter)
        return evaluate(hook, runner, model, name)

    monkeypatch.setattr(TeacherCheckHook, '_evaluate', count)
    train(run_config(tmp_path, model_of(critic=False), max_iters=2, val_interval=9))
    assert calls == [0]
    train(run_config(tmp_path, model_of(critic=False), max_iters=4, val_interval=9), resume=True)
    assert calls == [0]


def test_it_changes_nothing_in_the_training(tmp_path: Path) -> None:
    """Same weights with and without: randomness is a function of the iteration."""
    weights = []
    for name in ('with', 'without'):
        cfg = run_config(tmp_path, model_of(), max_iters=2, name=name)
        if name == 'without':
            cfg.custom_hooks = [
                hook for hook in cfg.custom_hooks if 'TeacherCheck' not in hook.type
            ]
        weights.append(train(cfg).model.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.bad_input
def test_minimum(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings_of(runner, monkeypatch)
    TeacherCheckHook(minimum=dict(mIoU=20.0)).before_train(runner)
    with pytest.raises(
        ValueError,
        match=r"teacher 'teacher' has mIoU \d\d\.\d\d on the validation set, below the "
        r'minimum 99.5. Mend: check its checkpoint, classes and data_preprocessor',
    ):
        TeacherCheckHook(minimum=dict(mIoU=99.5)).before_train(runner)
    with pytest.raises(
        KeyError, match="minimum names 'mIOU', which the evaluator does not.*did you mean 'mIoU'"
    ):
        TeacherCheckHook(minimum=dict(mIOU=20.0)).before_train(runner)
    with pytest.raises(
        ValueError, match='has mIoU nan on the validation set, below the minimum 20'
    ):
        TeacherCheckHook(minimum=dict(mIoU=20.0))._check(runner, 'teacher', dict(mIoU=float('nan')))


@pytest.mark.bad_input
def test_maximum(runner: Runner) -> None:
    hook = TeacherCheckHook(maximum=dict(abs_rel=0.2))
    hook._check(runner, 't', dict(abs_rel=0.15))
    for value in (0.25, float('nan')):
        with pytest.raises(
            ValueError,
            match=f"'t' has abs_rel {value:.4g} on the validation set, above the maximum",
        ):
            hook._check(runner, 't', dict(abs_rel=value))
    with pytest.raises(
        KeyError,
        match="maximum names 'abs_rl', which the evaluator does not.*did you mean 'abs_rel'",
    ):
        TeacherCheckHook(maximum=dict(abs_rl=0.2))._check(runner, 't', dict(abs_rel=0.15))


@pytest.mark.parametrize(
    ('metrics', 'warning'),
    [
        (
            dict(abs_rel=float('nan'), d1=0.5),
            "'t' has no number for abs_rel (NaN). Check its checkpoint and the labels",
        ),
        (
            {'coco/bbox_mAP': 0.004},
            "'t' finds next to nothing (coco/bbox_mAP 0.004). Check its checkpoint, the order of",
        ),
        ({}, "'t' finds nothing (coco/bbox_mAP 0). Check its checkpoint"),
        ({'coco/bbox_mAP': 0.3, 'abs_rel': 0.1}, None),
    ],
)
def test_what_is_warned_of(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, metrics: dict, warning: str | None
) -> None:
    said = warnings_of(runner, monkeypatch)
    TeacherCheckHook()._check(runner, 't', metrics)
    assert len(said) == (warning is not None)
    assert not said or warning in said[0]


@pytest.mark.bad_input
def test_a_teacher_that_cannot_predict_in_its_precision(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = warnings_of(runner, monkeypatch)

    def fail(*args: Any) -> None:
        raise RuntimeError('expected scalar type Float but found BFloat16')

    monkeypatch.setattr(TeacherCheckHook, '_evaluate', fail)
    with pytest.raises(RuntimeError, match='expected scalar type'):
        TeacherCheckHook().before_train(runner)
    runner.model.runs['teacher'].dtype = torch.bfloat16
    TeacherCheckHook().before_train(runner)
    assert "teacher 'teacher' cannot predict in torch.bfloat16 (expected scalar type" in said[0]
    with pytest.raises(
        ValueError, match='cannot predict in torch.bfloat16.*so its quality is unknown'
    ):
        TeacherCheckHook(minimum=dict(mIoU=20.0)).before_train(runner)


@pytest.mark.bad_input
def test_a_detector_that_finds_nothing_is_below_any_minimum(runner: Runner) -> None:
    with pytest.raises(ValueError, match=r"'t' finds nothing \(coco/bbox_mAP 0\)"):
        TeacherCheckHook(minimum={'coco/bbox_mAP': 0.3})._check(runner, 't', {})


def test_one_class_has_no_chance_level(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    said = warnings_of(runner, monkeypatch)
    monkeypatch.setattr(runner.val_loop.dataloader.dataset, '_metainfo', dict(classes=('face',)))
    TeacherCheckHook()._check(runner, 't', {'coco/bbox_mAP': 0.5})
    TeacherCheckHook()._check(runner, 't', dict(mIoU=80.0))
    assert said == []


@pytest.mark.parametrize(('miou', 'warns'), [(49.9, True), (50.1, False)])
def test_chance_is_warned_of(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, miou: float, warns: bool
) -> None:
    """Three classes: below one and a half times a third."""
    said = warnings_of(runner, monkeypatch)
    TeacherCheckHook()._check(runner, 't', dict(mIoU=miou))
    warning = (
        f"teacher 't' is hardly better than chance (mIoU {miou:.2f} of 3 classes). Check its "
        'checkpoint, the order of its classes and its data_preprocessor'
    )
    assert said == ([warning] if warns else [])


def test_several_teachers_are_told_apart(
    trained: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, model = trained
    term = dict(loss=dict(type='PixelWiseKLLoss'))
    teachers = dict(
        good=dict(model=model, checkpoint=str(checkpoint)),
        bad=dict(model=segmentor(4, num_classes=3, size=32), allow_untrained=True),
    )
    cfg = model_of(
        teachers=teachers,
        objectives={
            name: dict(term, reads=dict(student='student.logits', teacher=f'{name}.logits'))
            for name in ('good', 'bad')
        },
    )
    del cfg['teacher']
    runner = Runner.from_cfg(run_config(tmp_path, cfg))
    said = warnings_of(runner, monkeypatch)
    hook = TeacherCheckHook()
    hook.before_train(runner)
    assert hook.results['good']['mIoU'] > 2 * hook.results['bad']['mIoU']
    assert len(said) == 1
    assert said[0].startswith("teacher 'bad' is hardly better than chance")


def test_without_a_validation_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = run_config(tmp_path, model_of(critic=False))
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg.pop(key)
    runner = Runner.from_cfg(cfg)
    said = warnings_of(runner, monkeypatch)
    TeacherCheckHook().before_train(runner)
    assert said == [
        'TeacherCheckHook: no validation set, so the quality of the teachers is unknown'
    ]


def test_a_plain_model_is_left_alone(tmp_path: Path) -> None:
    runner = Runner.from_cfg(run_config(tmp_path, segmentor(4, num_classes=3, size=32)))
    hook = HOOKS.build(dict(type='mmkd.TeacherCheckHook', minimum=dict(mIoU=100.0)))
    hook.before_train(runner)
    assert hook.results == {}
    assert not isinstance(runner._val_loop, BaseLoop)  # it did not even build the loop


def test_teachers_that_the_validation_set_cannot_judge(tmp_path: Path) -> None:
    """One of other classes, one without a head: they are told, and nothing is evaluated."""
    other = dict(model=segmentor(8, num_classes=7, size=32), allow_untrained=True)
    backbone = segmentor(8)['backbone']
    headless = dict(type='mmkd.FeatureModel', backbone=backbone, data_preprocessor=preprocessor(32))
    for number, (teacher, told) in enumerate(
        [
            (other, "teacher 'teacher' knows 7 classes and the validation set 3, so its quality"),
            (dict(model=headless, scope='mmseg', allow_untrained=True), 'backbone without a head'),
        ]
    ):
        model = model_of(critic=False, teacher=teacher)
        model['objectives'] = dict(
            feat=dict(
                loss=dict(type='FeatureMatchingLoss'),
                on='last',
                connectors=dict(student='auto'),
            )
        )
        model['taps'] = dict(last='backbone[3]')
        runner = Runner.from_cfg(run_config(tmp_path / str(number), model))
        said: list[str] = []
        runner.logger.info = said.append  # type: ignore[method-assign]
        hook = TeacherCheckHook()
        hook.before_train(runner)
        assert hook.results == {}
        assert told in said[-1]
        with pytest.raises(ValueError, match='quality is unknown. Mend: leave out minimum and max'):
            TeacherCheckHook(minimum=dict(mIoU=1)).before_train(runner)
