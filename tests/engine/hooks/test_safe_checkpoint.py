"""Whatever interrupts a save, a good checkpoint stays; otherwise the hook keeps what mmengine's
keeps.
"""

import errno
import os
import re
import resource
import shutil
import signal
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import Numbers, Script, loader, make_runner
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook

from mmkd.engine.hooks import SafeCheckpointHook, safe_checkpoint
from mmkd.utils import atomic
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.work_dir import LOCK, hold

SCORES = [0.3, 0.5, 0.4, 0.6, 0.2, 0.1]
EXACT = [dict(type='mmkd.ExactResumeHook')]


def safe(**kwargs: Any) -> dict:
    return dict(type='mmkd.SafeCheckpointHook', by_epoch=False, **kwargs)


def files(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.suffix != '.py' and path.name != LOCK
    )


# --- the same as mmengine's own hook --------------------------------------------------------------


@pytest.mark.parametrize(
    'settings',
    [
        dict(interval=2),
        dict(interval=2, max_keep_ckpts=1),
        dict(interval=1, max_keep_ckpts=2),
        dict(interval=4, save_last=False),
        dict(interval=4, save_last=True, max_keep_ckpts=3),
        dict(interval=1, save_begin=4),
        dict(interval=2, max_keep_ckpts=1, save_best='mIoU'),
        dict(interval=3, max_keep_ckpts=2, save_best='mIoU', rule='less'),
        dict(interval=2, save_best='auto', save_optimizer=False),
        dict(
            interval=2, max_keep_ckpts=2, save_best=['mIoU', 'acc/one'], save_param_scheduler=False
        ),
        dict(interval=-1, save_best='mIoU', save_last=False),
        dict(interval=3, filename_tmpl='step-{}.pth', out_dir='out'),
        dict(interval=3, save_best='mIoU', published_keys=['meta', 'state_dict']),
        dict(interval=1, by_epoch=True, max_keep_ckpts=1, save_best='mIoU'),
    ],
)
def test_keeps_what_mmengine_keeps(settings: dict, tmp_path: Path) -> None:
    seen = []
    for kind in ('CheckpointHook', 'mmkd.SafeCheckpointHook'):
        work_dir = tmp_path / kind / 'run'
        hook = dict(dict(by_epoch=False), type=kind, **settings)
        if 'out_dir' in settings:
            hook['out_dir'] = str(tmp_path / kind / 'elsewhere')
        loop = dict(by_epoch=True, max_epochs=3) if settings.get('by_epoch') else None
        runner = make_runner(
            work_dir,
            hook,
            train_cfg=loop,
            val_interval=1,
            metric=Script(SCORES, ('mIoU', 'acc/one')),
            train_dataloader=loader(Numbers(), sampler='DefaultSampler') if loop else None,
        )
        runner.train()
        folder = tmp_path / kind / 'elsewhere' / 'run' if 'out_dir' in settings else work_dir
        kept = {
            name.split('-')[0] if 'published_keys' in settings else name: load_checkpoint_file(
                folder / name
            )
            for name in files(folder)
            if name.endswith('.pth')
        }
        hub = {
            key: value
            for key, value in runner.message_hub.runtime_info.items()
            if key.startswith(('best', 'keep', 'last'))
        }  # mmkd's own begin with its name
        last = (folder if kind.startswith('mmkd') else work_dir) / 'last_checkpoint'
        relative = [str(value).replace(str(tmp_path / kind), '') for value in hub.values()]
        seen.append(
            (
                {
                    name: (
                        sorted(content),
                        content['meta']['iter'],
                        content['meta']['epoch'],
                        content['state_dict']['weight'].item(),
                    )
                    for name, content in kept.items()
                },
                list(hub),
                relative,
                Path(last.read_text()).name if last.exists() else None,
            )
        )
    assert seen[0] == seen[1]
    assert seen[0][0]  # something was kept


def test_files_of_another_run_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / 'pretrained.pth').write_bytes(b'another')
    (tmp_path / 'notes.part').write_bytes(b'mine')
    (tmp_path / 'iter_3.pth.17.part').write_bytes(b'left behind by a killed run')
    (tmp_path / 'student').mkdir()
    (tmp_path / 'student' / 'iter_3.pth.17.part').write_bytes(b'and by its export')
    make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1)).train()
    assert files(tmp_path) == ['iter_6.pth', 'last_checkpoint', 'notes.part', 'pretrained.pth']
    assert not files(tmp_path / 'student')


# --- a save that fails ----------------------------------------------------------------------------


class FailAt:
    """Raises ``error`` at the n-th call, and counts."""

    def __init__(self, function: Callable, call: int, error: BaseException) -> None:
        self.function, self.call, self.error, self.calls = function, call, error, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return self.function(*args)


def fail(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: BaseException) -> None:
    monkeypatch.setattr(atomic.os, name, FailAt(getattr(os, name), call, error))


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.fault
def test_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1))
    fail(
        monkeypatch, 'fsync', 5, full_disk()
    )  # file, folder, last_checkpoint, folder; then the second file
    with pytest.raises(
        OSError,
        match=(
            r'no checkpoint could be written to .* at iteration 4 \(No space left on device, '
            r'[0-9.]+ MiB free\)\. .*iter_2\.pth stays and is good; free some space or lower '
            r'max_keep_ckpts, then .* --resume'
        ),
    ) as info:
        runner.train()
    assert info.value.errno == errno.ENOSPC
    assert files(tmp_path) == ['iter_2.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_2.pth'
    assert load_checkpoint_file(tmp_path / 'iter_2.pth')['meta']['iter'] == 2


@pytest.mark.fault
def test_full_disk_at_the_first_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, 'fsync', 1, full_disk())
    with pytest.raises(OSError, match='There is no earlier one'):
        make_runner(tmp_path, safe(interval=2)).train()
    assert files(tmp_path) == []


@pytest.mark.fault
def test_full_disk_keeps_the_previous_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(
        tmp_path,
        safe(interval=2, max_keep_ckpts=1, save_best='mIoU'),
        val_interval=2,
        metric=Script([0.3, 0.5, 0.4]),
    )
    calls: list[str] = []
    replace = os.replace

    def replaced(part: Path, path: Path) -> None:
        if Path(path).name == 'best_mIoU_iter_4.pth':
            raise full_disk()
        calls.append(Path(path).name)
        replace(part, path)

    monkeypatch.setattr(atomic.os, 'replace', replaced)
    with pytest.raises(OSError, match=r'iter_4\.pth stays and is good'):
        runner.train()
    # iter_2 twice: once more with the score of its validation
    last = 'last_checkpoint'
    assert calls == [
        'iter_2.pth',
        last,
        'best_mIoU_iter_2.pth',
        'iter_2.pth',
        last,
        'iter_4.pth',
        last,
    ]
    assert files(tmp_path) == ['best_mIoU_iter_2.pth', 'iter_4.pth', last]
    # a resumed run knows that best, and replaces it by the next better one, once it has validated
    # iter_4
    monkeypatch.undo()
    make_runner(
        tmp_path,
        safe(interval=2, max_keep_ckpts=1, save_best='mIoU'),
        val_interval=2,
        resume=True,
        metric=Script([0.5, 0.6]),
    ).train()
    assert files(tmp_path) == ['best_mIoU_iter_6.pth', 'iter_6.pth', last]


def run_to_four(folder: Path, **kwargs: Any) -> torch.Tensor:
    return (
        make_runner(
            folder,
            safe(interval=1, max_keep_ckpts=1, save_best='mIoU'),
            4,
            val_interval=2,
            metric=Script([0.3, 0.5]),
            custom_hooks=EXACT,
            **kwargs,
        )
        .train()
        .weight.detach()
    )


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return run_to_four(tmp_path_factory.mktemp('whole'))


# a run writes iter_1, iter_2, best, iter_2, iter_3, iter_4, best, iter_4, each but a best followed
# by last_checkpoint; a write is one rename between a sync of the file and one of the folder
@pytest.mark.fault
@pytest.mark.parametrize(
    ('name', 'call'),
    [('fsync', call) for call in (1, 2, 3, 4, 5, 9, 12)]
    + [('replace', call) for call in (1, 2, 3, 4, 5, 6, 12)],
)
def test_ctrl_c_anywhere_can_be_resumed(
    name: str,
    call: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: torch.Tensor,
) -> None:
    fail(monkeypatch, name, call, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_to_four(tmp_path)
    monkeypatch.undo()
    assert not [file for file in files(tmp_path) if file.endswith('.part')]
    last = tmp_path / 'last_checkpoint'
    assert last.exists() == (call > dict(fsync=3, replace=2)[name])
    assert torch.equal(run_to_four(tmp_path, resume=True), uninterrupted)
    assert 'iter_4.pth' in files(tmp_path)


def test_old_files_go_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []

    def remove(self: Any, path: str) -> None:
        last = tmp_path / (tmp_path / 'last_checkpoint').read_text()
        assert last.is_file()
        assert last != Path(path)
        removed.append((Path(path).name, last.name))
        os.remove(path)

    monkeypatch.setattr(safe_checkpoint.LocalBackend, 'remove', remove)
    make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1)).train()
    assert removed == [('iter_2.pth', 'iter_4.pth'), ('iter_4.pth', 'iter_6.pth')]


# --- write_atomically, with the kernel itself refusing --------------------------------------------


@pytest.mark.fault
def test_a_write_cut_short_by_the_kernel_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / 'sub' / 'file'
    write_atomically(b'old', target)
    limits, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            write_atomically(bytes(5000), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (target.read_bytes(), files(target.parent)) == (b'old', ['file'])
    write_atomically(b'new', target)
    assert (target.read_bytes(), files(target.parent)) == (b'new', ['file'])


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_syncs_no_folders(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, 'no')
        real(handle)

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match='no') if number == errno.EIO else nullcontext():
        write_atomically(b'new', tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == b'new'


def test_file_client_args_is_refused() -> None:
    with pytest.raises(ValueError, match='file_client_args.*write backend_args instead'):
        SafeCheckpointHook(file_client_args=dict(backend='disk'))


def test_another_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="out_dir='s3://a/b' is on another storage.*Mend: a local"):
        SafeCheckpointHook(out_dir='s3://a/b')


def test_flexible_runner_is_refused(tmp_path: Path) -> None:
    class FlexibleRunner:
        strategy = None

    with pytest.raises(TypeError, match="serves Runner, got FlexibleRunner.*type='CheckpointHook'"):
        SafeCheckpointHook().before_run(FlexibleRunner())


def test_other_ranks_write_and_delete_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_checkpoint, 'is_main_process', lambda: False)
    monkeypatch.setattr('mmengine.hooks.checkpoint_hook.is_main_process', lambda: False)
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    (tmp_path / 'iter_3.pth.17.part').write_bytes(b'rank 0 is writing this')
    runner = make_runner(tmp_path, safe(interval=1, max_keep_ckpts=1))
    runner.train()
    assert files(tmp_path) == ['iter_3.pth.17.part']
    assert runner.message_hub.get_info('keep_ckpt_ids') == [6]


# --- a folder that is moved, copied, held, or in use ----------------------------------------------

BEST = safe(interval=2, max_keep_ckpts=1, save_best='mIoU')


def best_run(folder: Path, scores: list[float], max_iters: int = 6, **kwargs: Any) -> Any:
    runner = make_runner(
        folder, dict(BEST), max_iters, val_interval=2, metric=Script(scores), **kwargs
    )
    runner.train()
    return runner


@pytest.mark.fault
@pytest.mark.parametrize('move', [shutil.copytree, shutil.move])
def test_a_moved_or_copied_folder_is_resumed_by_itself(move: Callable, tmp_path: Path) -> None:
    best_run(tmp_path / 'run', [0.3, 0.4], 4)
    content = load_checkpoint_file(tmp_path / 'run' / 'iter_4.pth')['message_hub']['runtime_info']
    assert (content['last_ckpt'], content['best_ckpt']) == ('iter_4.pth', 'best_mIoU_iter_4.pth')
    move(tmp_path / 'run', tmp_path / 'other')
    before = files(tmp_path / 'run') if (tmp_path / 'run').exists() else None
    best_run(tmp_path / 'other', [0.9], resume=True)
    assert files(tmp_path / 'other') == ['best_mIoU_iter_6.pth', 'iter_6.pth', 'last_checkpoint']
    if before:
        assert (
            files(tmp_path / 'run')
            == before
            == ['best_mIoU_iter_4.pth', 'iter_4.pth', 'last_checkpoint']
        )


@pytest.mark.fault
def test_what_a_checkpoint_says_of_files_leads_nowhere_else(tmp_path: Path) -> None:
    run = tmp_path / 'run'
    best_run(run, [0.3, 0.4], 4)
    victims = [
        tmp_path / 'iter_1.pth',
        tmp_path / 'mine.txt',
        run / 'mine.pth',
        tmp_path / 'best_a_iter_1.pth',
    ]
    for victim in victims:
        victim.touch()
    for best in (str(tmp_path / 'mine.txt'), '../best_a_iter_1.pth', 7, 'mine.pth'):
        content = torch.load(run / 'iter_4.pth', weights_only=False)
        content['message_hub']['runtime_info'] |= dict(
            best_ckpt=best,
            keep_ckpt_ids=['/../../iter_1', 2.5, 4],
            last_ckpt='/etc/passwd',
            mmkd_superseded=['../iter_1.pth', str(tmp_path / 'mine.txt'), 'mine.pth', 3],
        )
        torch.save(content, run / 'iter_4.pth')
        best_run(run, [0.9], 6, resume=True)
        assert all(victim.exists() for victim in victims)
        for file in (*run.glob('iter_6.pth'), *run.glob('best*')):
            file.unlink()
        torch.save(content, run / 'iter_4.pth')
        (run / 'last_checkpoint').write_text('iter_4.pth')


@pytest.mark.fault
def test_a_fresh_start_over_a_run_is_refused(tmp_path: Path) -> None:
    best_run(tmp_path, [0.3, 0.4, 0.5])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(
        FileExistsError,
        match=(
            r'holds a run already \(best_mIoU_iter_6\.pth, iter_6\.pth, last_checkpoint\), whose '
            r'checkpoints a fresh start would mix with its own\. Mend: --resume to go on with it, '
            r'another --work-dir, or --overwrite'
        ),
    ):
        best_run(tmp_path, [0.3, 0.4], 4)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    assert not (tmp_path / LOCK).exists()
    best_run(tmp_path, [0.3, 0.4], 4, cfg=Config(dict(overwrite=True)))
    assert files(tmp_path) == ['best_mIoU_iter_4.pth', 'iter_4.pth', 'last_checkpoint']


@pytest.mark.fault
def test_a_second_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    best_run(tmp_path, [0.3, 0.4], 4)
    (tmp_path / 'iter_6.pth.1.part').touch()  # the first run is writing it
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        hold(tmp_path)
        os.write(told, b'x')
        signal.pause()
    os.read(ready, 1)
    before = files(tmp_path)
    with pytest.raises(RuntimeError, match=rf'is in use by another run \(process {child} on '):
        best_run(tmp_path, [0.9], resume=True)
    assert files(tmp_path) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    best_run(tmp_path, [0.9], resume=True)
    assert files(tmp_path) == ['best_mIoU_iter_6.pth', 'iter_6.pth', 'last_checkpoint']


def test_a_validation_and_a_test_after_the_training(tmp_path: Path) -> None:
    """They are no fresh start, and nothing is written over."""
    metric = Script([0.3, 0.4, 0.1])
    data = loader(Numbers(2), shuffle=False, sampler='DefaultSampler')
    runner = make_runner(
        tmp_path,
        dict(BEST),
        4,
        val_interval=2,
        metric=metric,
        test_dataloader=data,
        test_cfg=dict(),
        test_evaluator=Evaluator([Script([0.7])]),
    )
    runner.train()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert (runner.val(), runner.test()) == ({'mIoU': 0.1}, {'mIoU': 0.7})
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    assert not (tmp_path / LOCK).exists()


@pytest.mark.fault
@pytest.mark.parametrize('kind', ['mmkd.SafeCheckpointHook', 'CheckpointHook'])
def test_resume_where_last_checkpoint_is_not_beside_the_checkpoints(
    kind: str, tmp_path: Path
) -> None:
    """Killed before it was written, or a run of mmengine's hook, which writes it into the work
    dir.
    """
    run, out = tmp_path / 'run', tmp_path / 'out'
    make_runner(run, dict(type=kind, by_epoch=False, interval=2, out_dir=str(out)), 4).train()
    (out / 'run' / 'last_checkpoint').unlink(missing_ok=True)
    resumed = make_runner(run, safe(interval=2, out_dir=str(out)), 5, resume=True)
    resumed.train()
    assert resumed.model.steps == 1, 'it went on at 4'
    assert files(out / 'run') == ['iter_2.pth', 'iter_4.pth', 'iter_5.pth', 'last_checkpoint']


@pytest.mark.fault
def test_two_work_dirs_that_share_the_folder_of_checkpoints(tmp_path: Path) -> None:
    """``out_dir`` is joined with the last part of the work dir."""
    child = os.fork()
    if not child:
        hold(tmp_path / 'out' / 'run')
        (tmp_path / 'held').touch()
        signal.pause()
    while not (tmp_path / 'held').exists():
        pass
    with pytest.raises(
        RuntimeError, match=rf'out/run is in use by another run \(process {child} on '
    ):
        make_runner(
            tmp_path / 'b' / 'run', safe(interval=2, out_dir=str(tmp_path / 'out')), 2
        ).train()
    assert not (tmp_path / 'b' / 'run' / LOCK).exists(), 'its own was let go'
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    make_runner(tmp_path / 'b' / 'run', safe(interval=2, out_dir=str(tmp_path / 'out')), 2).train()
    assert files(tmp_path / 'out' / 'run') == ['iter_2.pth', 'last_checkpoint']


@pytest.mark.fault
def test_a_template_with_a_format(tmp_path: Path) -> None:
    hook = dict(BEST, filename_tmpl='iter_{:06d}.pth')
    make_runner(tmp_path, dict(hook), 4, val_interval=2, metric=Script([0.3, 0.4])).train()
    with pytest.raises(FileExistsError, match=r'iter_000004\.pth'):
        make_runner(tmp_path, dict(hook), 4).train()
    make_runner(
        tmp_path, dict(hook), 8, val_interval=2, metric=Script([0.6, 0.1]), resume=True
    ).train()
    assert files(tmp_path) == ['best_mIoU_iter_000006.pth', 'iter_000008.pth', 'last_checkpoint']


def test_a_best_checkpoint_of_another_folder_is_not_published(tmp_path: Path) -> None:
    make_runner(tmp_path / 'a', dict(BEST), 4, val_interval=2, metric=Script([0.9, 0.4])).train()
    hook = dict(BEST, published_keys=['state_dict'])
    make_runner(
        tmp_path / 'b',
        hook,
        6,
        val_interval=2,
        metric=Script([0.1]),
        resume=True,
        load_from=str(tmp_path / 'a' / 'iter_4.pth'),
    ).train()
    names = [re.sub('-[0-9a-f]{8}', '-HASH', name) for name in files(tmp_path / 'b')]
    assert names == ['iter_6-HASH.pth', 'iter_6.pth', 'last_checkpoint']


@pytest.mark.parametrize(
    'notes', [dict(mmkd_superseded=5), dict(best_score='high'), dict(keep_ckpt_ids='4')]
)
def test_notes_of_a_wrong_type_are_left_out(notes: dict, tmp_path: Path) -> None:
    make_runner(tmp_path, dict(BEST), 4, val_interval=2, metric=Script([0.3, 0.4])).train()
    content = load_checkpoint_file(tmp_path / 'iter_4.pth')
    content['message_hub']['runtime_info'].update(notes)
    content['message_hub']['resumed_keys'].update(dict.fromkeys(notes, True))
    torch.save(content, tmp_path / 'iter_4.pth')
    make_runner(tmp_path, dict(BEST), 6, val_interval=2, metric=Script([0.9]), resume=True).train()
    assert {'best_mIoU_iter_6.pth', 'iter_6.pth'} <= set(files(tmp_path))


# --- a validation that was due --------------------------------------------------------------------


class Interrupt(Hook):
    """Ctrl-C before the n-th validation."""

    def __init__(self, number: int) -> None:
        self.number = number

    def before_val(self, runner: Any) -> None:
        self.number -= 1
        if not self.number:
            raise KeyboardInterrupt


@pytest.mark.fault
@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.parametrize('epochs', [False, True])
def test_a_validation_that_was_due_is_done_on_resume(
    number: int, epochs: bool, tmp_path: Path
) -> None:
    how: dict = (
        dict(
            train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
            train_dataloader=loader(Numbers(4), sampler='DefaultSampler'),
        )
        if epochs
        else {}
    )
    hook = dict(BEST, by_epoch=True, interval=1) if epochs else dict(BEST)
    scores = [0.3, 0.9, 0.5]

    def run(metric: Script, **kwargs: Any) -> None:
        make_runner(tmp_path, dict(hook), 6, val_interval=2, metric=metric, **how, **kwargs).train()

    with pytest.raises(KeyboardInterrupt):
        run(Script(scores), custom_hooks=[Interrupt(number)])
    metric = Script(scores[number - 1 :])
    run(metric, resume=True)
    assert metric.calls == 4 - number
    name = 'epoch' if epochs else 'iter'
    step = 1 if epochs else 2
    assert files(tmp_path) == [
        f'best_mIoU_{name}_{2 * step}.pth',
        f'{name}_{3 * step}.pth',
        'last_checkpoint',
    ]


def test_a_validation_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    best_run(tmp_path, [0.3, 0.4], 4)
    metric = Script([0.1])
    make_runner(tmp_path, dict(BEST), 5, val_interval=10, metric=metric, resume=True).train()
    assert metric.calls == 1, 'that of the last iteration alone'


# --- settings that would end the run at its first save or validation ------------------------------


def test_a_misspelt_keyword_is_refused_at_once() -> None:
    with pytest.raises(
        TypeError,
        match=r"SafeCheckpointHook got an unknown key 'max_keep_ckpt'; did you mean "
        r"'max_keep_ckpts'",
    ):
        SafeCheckpointHook(max_keep_ckpt=1)


def test_a_misspelt_metric_is_refused_before_the_first_step(tmp_path: Path) -> None:
    metric = Script([0.5], ('mIoU', 'mAcc'))
    runner = make_runner(
        tmp_path, safe(interval=2, save_best='mIou'), val_interval=2, metric=metric
    )
    with pytest.raises(
        KeyError,
        match=r"save_best='mIou', which the validation does not report; did you mean "
        r"'mIoU'\? \(it reports \['mAcc', 'mIoU'\]\)",
    ):
        runner.train()
    assert (runner.iter, metric.calls, files(tmp_path)) == (0, 0, [])


def test_a_metric_that_needs_the_whole_set_is_no_mistake(tmp_path: Path) -> None:
    class Whole(Script):
        def compute_metrics(self, results: list) -> dict[str, float]:
            assert len(results) > 1, 'one batch is too few for me'
            return super().compute_metrics(results)

    make_runner(
        tmp_path,
        dict(BEST),
        val_interval=2,
        metric=Whole([0.5]),
        val_dataloader=loader(Numbers(4), shuffle=False, sampler='DefaultSampler'),
    ).train()
    assert 'best_mIoU_iter_2.pth' in files(tmp_path)


def test_a_test_after_the_training_is_no_fresh_start(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        dict(BEST),
        4,
        val_interval=2,
        metric=Script([0.3, 0.4]),
        test_dataloader=loader(Numbers(2), shuffle=False, sampler='DefaultSampler'),
        test_cfg=dict(),
        test_evaluator=Evaluator([Script([0.7])]),
    )
    runner.train()
    before = files(tmp_path)
    assert runner.test() == {'mIoU': 0.7}
    assert files(tmp_path) == before
    assert not (tmp_path / LOCK).exists()
