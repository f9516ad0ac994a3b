"""ExportStudentHook: which files there are beside which checkpoints."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import model_of, run_config, train
from helpers.tiny import build, distiller, segmentor
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, get_priority
from mmseg.apis import init_model

from mmkd.engine.hooks import ExportStudentHook
from mmkd.engine.hooks.export_student import _prune

SMALL = dict(model=segmentor(4, num_classes=3, size=32))


def two_students() -> dict:
    """Deep mutual learning: two students, no teacher."""
    term = dict(loss=dict(type='PixelWiseKLLoss'))
    return dict(
        type='mmkd.Distiller',
        students=dict(one=copy.deepcopy(SMALL), two=copy.deepcopy(SMALL)),
        taps=dict(logits='decode_head.conv_seg'),
        objectives=dict(
            left=dict(term, reads=dict(student='one.logits', teacher='two.logits')),
            right=dict(term, reads=dict(student='two.logits', teacher='one.logits')),
        ),
    )


def fake(
    tmp_path: Path, model: Any, checkpoint_hook: CheckpointHook | None = None, epochs: bool = False
) -> Any:
    """What the hook looks at of a Runner."""
    loop = (EpochBasedTrainLoop if epochs else IterBasedTrainLoop).__new__(
        EpochBasedTrainLoop if epochs else IterBasedTrainLoop
    )
    return SimpleNamespace(
        model=model,
        work_dir=str(tmp_path),
        cfg=Config(dict()),
        train_loop=loop,
        hooks=[checkpoint_hook] if checkpoint_hook else [],
    )


def saved(model: Any, **meta: int) -> dict:
    return dict(state_dict=model.state_dict(), meta=dict(epoch=0, iter=0) | meta)


@pytest.fixture(scope='module')
def model() -> Any:
    return build(
        distiller(
            student=copy.deepcopy(SMALL),
            teacher=dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True),
        )
    )


def files(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob('*')
        if p.is_file() and p.suffix in ('.pth', '.py')
    )


def test_students_go_with_their_checkpoints(tmp_path: Path) -> None:
    """A checkpoint that was evicted, and the best one, which stays: beside each one student, and no
    other.
    """
    cfg = run_config(
        tmp_path, model_of(critic=False), max_iters=6, interval=2, keep=1, val_interval=2
    )
    cfg.default_hooks.checkpoint.save_best = 'mIoU'
    train(cfg)
    work = Path(cfg.work_dir)
    (best,) = work.glob('best_mIoU_iter_*.pth')
    kept = {'iter_6', best.stem.removeprefix('best_mIoU_')}
    assert files(work / 'student') == ['config.py', *sorted(f'{stem}.pth' for stem in kept)]
    for stem in kept:
        state = torch.load(next(work.glob(f'*{stem}.pth')), weights_only=False)['state_dict']
        student = torch.load(work / f'student/{stem}.pth', weights_only=False)['state_dict']
        assert all(
            torch.equal(value, state[f'students.student.{key}']) for key, value in student.items()
        )


def test_several_students_get_a_folder_each(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 32, 32)
    cfg = run_config(tmp_path, two_students(), max_iters=2, val_interval=9)
    runner = train(cfg)
    work = Path(cfg.work_dir)
    assert files(work / 'student') == [
        'one/config.py',
        'one/iter_2.pth',
        'two/config.py',
        'two/iter_2.pth',
    ]
    for name in ('one', 'two'):
        folder = work / 'student' / name
        loaded = init_model(str(folder / 'config.py'), str(folder / 'iter_2.pth'), device='cpu')
        with torch.no_grad():
            assert torch.equal(
                loaded.eval()(x, mode='tensor'),
                runner.model.students[name].eval()(x, mode='tensor'),
            )
        assert torch.load(folder / 'iter_2.pth', weights_only=False)['meta']['mmkd_member'] == name


def test_some_students_only(tmp_path: Path) -> None:
    model = build(two_students())
    hook = ExportStudentHook(members=['two'])
    runner = fake(tmp_path, model)
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, saved(model, iter=5))
    assert files(tmp_path) == ['student/two/config.py', 'student/two/iter_5.pth']


def test_an_unknown_student_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(
        KeyError,
        match=r"members names 'too', which is no student; did you mean 'two'\? "
        r".students: \['one', 'two'\]",
    ):
        ExportStudentHook(members=['too']).before_train(fake(tmp_path, build(two_students())))


def test_a_built_student_ends_the_run_before_it_starts(tmp_path: Path) -> None:
    model = build(
        distiller(
            student=build({**SMALL['model'], '_scope_': 'mmseg'}),
            teacher=dict(model=segmentor(8, num_classes=3, size=32), allow_untrained=True),
        )
    )
    with pytest.raises(
        TypeError,
        match="student was given as a built model.*Mend: give its config: dict.cfg='….py'",
    ):
        ExportStudentHook().before_train(fake(tmp_path, model))


def test_a_runner_without_config_and_a_save_before_training(tmp_path: Path, model: Any) -> None:
    """``Runner(model=…)`` by hand has an empty config; ``runner.save_checkpoint`` may come
    first.
    """
    ExportStudentHook().before_save_checkpoint(fake(tmp_path, model), saved(model, iter=3))
    assert files(tmp_path) == ['student/config.py', 'student/iter_3.pth']


@pytest.mark.parametrize(
    ('hook', 'epochs', 'name'),
    [
        (dict(by_epoch=True), True, 'epoch_2'),
        (dict(by_epoch=False), True, 'iter_7'),
        (None, True, 'epoch_2'),
        (None, False, 'iter_7'),
        (dict(by_epoch=False), False, 'iter_7'),
    ],
)
def test_students_are_called_as_their_checkpoints(
    tmp_path: Path, model: Any, hook: dict | None, epochs: bool, name: str
) -> None:
    runner = fake(tmp_path, model, CheckpointHook(**hook) if hook else None, epochs)
    ExportStudentHook().before_save_checkpoint(runner, saved(model, iter=7, epoch=2))
    assert files(tmp_path / 'student') == ['config.py', f'{name}.pth']


def test_checkpoints_may_lie_elsewhere(tmp_path: Path, model: Any) -> None:
    """``out_dir`` and ``filename_tmpl`` of the CheckpointHook: the number says which student is
    whose.
    """
    hook, runner = ExportStudentHook(), fake(tmp_path, model, CheckpointHook(by_epoch=False))
    runner.hooks[0].out_dir = str(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere').mkdir()
    for number in (1, 2, 3):
        hook.before_save_checkpoint(runner, saved(model, iter=number))
        (tmp_path / f'elsewhere/step-{number}.pth').write_bytes(b'')
        (tmp_path / f'elsewhere/step-{number - 1}.pth').unlink(missing_ok=True)
    assert files(tmp_path / 'student') == [
        'config.py',
        'iter_2.pth',
        'iter_3.pth',
    ]  # 2 lived when 3 was being saved
    hook.after_train(runner)
    assert files(tmp_path / 'student') == ['config.py', 'iter_3.pth']


def test_pruning_leaves_other_files_and_other_storages(tmp_path: Path) -> None:
    students, checkpoints = tmp_path / 'student', tmp_path / 'work'
    students.mkdir()
    names = [
        'iter_1.pth',
        'iter_11.pth',
        'epoch_2.pth',
        'mine.pth',
        'iter_1_quantised.pth',
        'config.py',
    ]
    for name in names:
        (students / name).write_bytes(b'')
    _prune(students, checkpoints)  # no such folder: the checkpoints are on another storage
    assert files(students) == sorted(names)
    checkpoints.mkdir()
    (checkpoints / 'best_mIoU_iter_11.pth').write_bytes(b'')
    _prune(students, checkpoints, being_saved=2)
    assert files(students) == sorted(
        ['iter_11.pth', 'epoch_2.pth', 'mine.pth', 'iter_1_quantised.pth', 'config.py']
    )


def test_a_linked_folder_of_students_is_not_pruned(tmp_path: Path) -> None:
    """It may be another run's."""
    for folder in ('work', 'other/one'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'other/iter_1.pth').touch()
    (tmp_path / 'other/one/iter_1.pth').touch()
    (tmp_path / 'work/student').symlink_to('../other')
    _prune(tmp_path / 'work/student', tmp_path / 'work')
    _prune(tmp_path / 'work/student/one', tmp_path / 'work')
    assert files(tmp_path / 'other') == ['iter_1.pth', 'one/iter_1.pth']


def test_students_of_checkpoints_elsewhere_outlive_a_resume(tmp_path: Path) -> None:
    """When this hook begins, mmengine has not joined ``out_dir`` and the name of the run yet."""
    for resume in (False, True):
        cfg = run_config(tmp_path, model_of(critic=False), max_iters=6 if resume else 4, interval=2)
        cfg.default_hooks.checkpoint.out_dir = str(tmp_path / 'elsewhere')
        (tmp_path / 'elsewhere').mkdir(exist_ok=True)
        train(cfg, resume=resume)
    work = Path(cfg.work_dir)
    assert files(work / 'student') == ['config.py', 'iter_2.pth', 'iter_4.pth', 'iter_6.pth']
    assert files(tmp_path / 'elsewhere' / work.name) == ['iter_2.pth', 'iter_4.pth', 'iter_6.pth']


def test_only_the_first_rank_drops_students(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may end while the first still writes the last checkpoint, whose student is there
    already.
    """
    hook, runner = ExportStudentHook(), fake(tmp_path, model)
    hook.before_save_checkpoint(runner, saved(model, iter=7))
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    hook.after_train(runner)
    hook.before_train(runner)
    assert files(tmp_path / 'student') == ['config.py', 'iter_7.pth']
    monkeypatch.undo()
    hook.after_train(runner)
    assert files(tmp_path / 'student') == ['config.py']


def test_a_plain_model_is_left_alone(tmp_path: Path) -> None:
    plain = build({**SMALL['model'], '_scope_': 'mmseg'})
    hook, runner = HOOKS.build(dict(type='mmkd.ExportStudentHook')), fake(tmp_path, plain)
    hook.before_train(runner)
    hook.before_save_checkpoint(runner, saved(plain))
    hook.after_train(runner)
    assert not list(tmp_path.iterdir())


def test_it_runs_after_ema_has_swapped_the_weights() -> None:
    assert get_priority(ExportStudentHook.priority) > get_priority(EMAHook.priority)


def test_members_that_are_no_list() -> None:
    with pytest.raises(
        TypeError,
        match=r"members of ExportStudentHook must be a list of names, got 'peer1'. Mend: "
        r"members=\['peer1'\]",
    ):
        ExportStudentHook('peer1')
