"""Whatever interrupts a save, a good checkpoint stays; otherwise the hook keeps what mmengine's keeps."""
import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hooks.tiny_run import Numbers, Script, loader, make_runner

from mmkd import atomic
from mmkd.atomic import write_atomically
from mmkd.checkpoints import load_checkpoint_file
from mmkd.hooks import SafeCheckpointHook, safe_checkpoint
from mmkd.work_dir import LOCK

SCORES = [0.3, 0.5, 0.4, 0.6, 0.2, 0.1]
EXACT = [dict(type='mmkd.ExactResumeHook')]


def safe(**kwargs: Any) -> dict:
    return dict(type='mmkd.SafeCheckpointHook', by_epoch=False, **kwargs)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()
                  if path.is_file() and path.suffix != '.py' and path.name != LOCK)


# --- the same as mmengine's own hook ---------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [
    dict(interval=2),
    dict(interval=2, max_keep_ckpts=1),
    dict(interval=1, max_keep_ckpts=2),
    dict(interval=4, save_last=False),
    dict(interval=4, save_last=True, max_keep_ckpts=3),
    dict(interval=1, save_begin=4),
    dict(interval=2, max_keep_ckpts=1, save_best='mIoU'),
    dict(interval=3, max_keep_ckpts=2, save_best='mIoU', rule='less'),
    dict(interval=2, save_best='auto', save_optimizer=False),
    dict(interval=2, max_keep_ckpts=2, save_best=['mIoU', 'acc/one'], save_param_scheduler=False),
    dict(interval=-1, save_best='mIoU', save_last=False),
    dict(interval=3, filename_tmpl='step-{}.pth', out_dir='out'),
    dict(interval=3, save_best='mIoU', published_keys=['meta', 'state_dict']),
    dict(interval=1, by_epoch=True, max_keep_ckpts=1, save_best='mIoU')])
def test_keeps_what_mmengine_keeps(settings: dict, tmp_path: Path) -> None:
    seen = []
    for kind in ('CheckpointHook', 'mmkd.SafeCheckpointHook'):
        work_dir = tmp_path / kind / 'run'
        hook = dict(dict(by_epoch=False), type=kind, **settings)
        if 'out_dir' in settings:
            hook['out_dir'] = str(tmp_path / kind / 'elsewhere')
        loop = dict(by_epoch=True, max_epochs=3) if settings.get('by_epoch') else None
        runner = make_runner(work_dir, hook, train_cfg=loop, val_interval=1, metric=Script(SCORES, ('mIoU', 'acc/one')),
                             train_dataloader=loader(Numbers(), sampler='DefaultSampler') if loop else None)
        runner.train()
        folder = tmp_path / kind / 'elsewhere' / 'run' if 'out_dir' in settings else work_dir
        kept = {name.split('-')[0] if 'published_keys' in settings else name:
                load_checkpoint_file(folder / name) for name in files(folder) if name.endswith('.pth')}
        hub = {key: value for key, value in runner.message_hub.runtime_info.items()
               if key.startswith(('best', 'keep', 'last'))}  # mmkd's own begin with its name
        last = (folder if kind.startswith('mmkd') else work_dir) / 'last_checkpoint'
        relative = [str(value).replace(str(tmp_path / kind), '') for value in hub.values()]
        seen.append((
            {name: (sorted(content), content['meta']['iter'], content['meta']['epoch'],
                    content['state_dict']['weight'].item()) for name, content in kept.items()},
            list(hub), relative, Path(last.read_text()).name if last.exists() else None))
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


# --- a save that fails -----------------------------------------------------------------------------------------------

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


def test_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1))
    fail(monkeypatch, 'fsync', 5, full_disk())  # file, folder, last_checkpoint, folder; then the second file
    with pytest.raises(OSError, match=(
            r'no checkpoint could be written to .* at iteration 4 \(No space left on device, [0-9.]+ MiB free\)\. '
            r'.*iter_2\.pth stays and is good; free some space or lower max_keep_ckpts, then .* --resume')) as info:
        runner.train()
    assert info.value.errno == errno.ENOSPC
    assert files(tmp_path) == ['iter_2.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_2.pth'
    assert load_checkpoint_file(tmp_path / 'iter_2.pth')['meta']['iter'] == 2


def test_full_disk_at_the_first_checkpoint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, 'fsync', 1, full_disk())
    with pytest.raises(OSError, match='There is no earlier one'):
        make_runner(tmp_path, safe(interval=2)).train()
    assert files(tmp_path) == []


def test_full_disk_keeps_the_previous_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1, save_best='mIoU'), val_interval=2,
                         metric=Script([0.3, 0.5, 0.4]))
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
    assert calls == ['iter_2.pth', last, 'best_mIoU_iter_2.pth', 'iter_2.pth', last, 'iter_4.pth', last]
    assert files(tmp_path) == ['best_mIoU_iter_2.pth', 'iter_4.pth', last]
    # a resumed run knows that best, and replaces it by the next better one, once it has validated iter_4
    monkeypatch.undo()
    make_runner(tmp_path, safe(interval=2, max_keep_ckpts=1, save_best='mIoU'), val_interval=2, resume=True,
                metric=Script([0.5, 0.6])).train()
    assert files(tmp_path) == ['best_mIoU_iter_6.pth', 'iter_6.pth', last]


def run_to_four(folder: Path, **kwargs: Any) -> torch.Tensor:
    return make_runner(folder, safe(interval=1, max_keep_ckpts=1, save_best='mIoU'), 4, val_interval=2,
                       metric=Script([0.3, 0.5]), custom_hooks=EXACT, **kwargs).train().weight.detach()


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return run_to_four(tmp_path_factory.mktemp('whole'))


# a run writes iter_1, iter_2, best, iter_2, iter_3, iter_4, best, iter_4, each but a best followed by last_checkpoint;
# a write is one rename between a sync of the file and one of the folder
@pytest.mark.parametrize(('name', 'call'), [('fsync', call) for call in (1, 2, 3, 4, 5, 9, 12)] + [
    ('replace', call) for call in (1, 2, 3, 4, 5, 6, 12)])
def test_ctrl_c_anywhere_can_be_resumed(name: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        uninterrupted: torch.Tensor) -> None:
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


# --- write_atomically, with the kernel itself refusing ---------------------------------------------------------------

def test_a_write_cut_short_by_the_kernel_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / 'sub' / 'file'
    write_atomically(b'old', target)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
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


# --- refusals --------------------------------------------------------------------------------------------------------

def test_file_client_args_is_refused() -> None:
    with pytest.raises(ValueError, match='file_client_args.*write backend_args instead'):
        SafeCheckpointHook(file_client_args=dict(backend='disk'))


def test_flexible_runner_is_refused(tmp_path: Path) -> None:
    class FlexibleRunner:
        strategy = None

    with pytest.raises(TypeError, match="serves Runner, got FlexibleRunner.*type='CheckpointHook'"):
        SafeCheckpointHook().before_run(FlexibleRunner())


def test_other_ranks_write_and_delete_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_checkpoint, 'is_main_process', lambda: False)
    monkeypatch.setattr('mmengine.hooks.checkpoint_hook.is_main_process', lambda: False)
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    (tmp_path / 'iter_3.pth.17.part').write_bytes(b'rank 0 is writing this')
    runner = make_runner(tmp_path, safe(interval=1, max_keep_ckpts=1))
    runner.train()
    assert files(tmp_path) == ['iter_3.pth.17.part']
    assert runner.message_hub.get_info('keep_ckpt_ids') == [6]
