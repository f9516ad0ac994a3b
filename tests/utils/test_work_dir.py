"""A folder belongs to one run at a time; what lies in it is known by its names."""

import errno
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mmkd.utils import work_dir
from mmkd.utils.work_dir import (
    LOCK,
    files_of_run,
    hold,
    is_checkpoint_name,
    newest_checkpoint,
    newest_of_run,
    release,
    sweep,
)


class Holder:
    """A process that holds a folder until it is killed; a fork of it goes on, as a data loader's
    worker may.
    """

    def __init__(self, folder: Path) -> None:
        ready, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            hold(folder)
            if not os.fork():  # holds the pipe and every file of its parent
                signal.alarm(20)
                signal.pause()
            os.write(told, b'x')
            signal.pause()
        os.read(ready, 1)
        os.close(ready)
        os.close(told)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    held = Holder(tmp_path)
    yield held
    with suppress(ProcessLookupError, ChildProcessError):
        held.kill()


def test_a_folder_that_a_live_run_holds_is_refused(tmp_path: Path, holder: Holder) -> None:
    with pytest.raises(
        RuntimeError,
        match=(
            rf'{re.escape(str(tmp_path))} is in use by another run \(process {holder.pid} on '
            rf'{re.escape(socket.gethostname())}, since 20.*Mend: another --work-dir, or wait '
            r'until it ends'
        ),
    ):
        hold(tmp_path)
    holder.kill()
    hold(tmp_path)  # at once, though its fork lives on
    assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()
    hold(tmp_path)  # a second time by one process
    release(tmp_path)
    assert not (tmp_path / LOCK).exists()
    release(tmp_path)


def test_a_fork_does_not_hold_what_its_parent_does(tmp_path: Path) -> None:
    hold(tmp_path)
    child = os.fork()
    if not child:
        try:
            hold(tmp_path)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    release(tmp_path)


def test_where_the_file_system_knows_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, 'no locks available')

    monkeypatch.setattr(work_dir.fcntl, 'lockf', no_locks)
    child = os.fork()
    if not child:
        signal.pause()
    (tmp_path / LOCK).write_text(
        json.dumps(dict(host=socket.gethostname(), pid=child, since='today'))
    )
    with pytest.raises(RuntimeError, match=rf'process {child} on .*, since today'):
        hold(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    hold(tmp_path)
    release(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(dict(host='another', pid=1, since='today')))
    with pytest.raises(
        RuntimeError, match=r'process 1 on another, since today.*known to be over, delete '
    ):
        hold(tmp_path)
    (tmp_path / LOCK).write_text('\x1b[31m no json')
    hold(tmp_path)
    release(tmp_path)


def test_names_of_checkpoints() -> None:
    good = ['iter_4.pth', 'best_mIoU_iter_4.pth', 'best_coco_bbox_mAP_iter_12.pth']
    bad = [
        'iter_.pth',
        'iter_4.pth.part',
        'my_iter_4.pth',
        '../iter_4.pth',
        'best_a/../iter_4.pth',
        'best__iter.pth',
        'iter_4.pth\n',
        '/iter_4.pth',
        'epoch_4.pth',
        '',
    ]
    assert [name for name in good + bad if is_checkpoint_name(name, 'iter_{}.pth')] == good
    assert is_checkpoint_name('step-7.pth', 'step-{}.pth')
    assert is_checkpoint_name('best_mIoU_iter_000004.pth', 'iter_{:06d}.pth')
    assert not is_checkpoint_name('iter_x.pth', 'iter_{:06d}.pth')


def test_the_newest_is_that_of_the_highest_number(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, 'iter_{}.pth') is None
    for name in (
        'iter_9.pth',
        'iter_10.pth',
        'best_mIoU_iter_11.pth',
        'epoch_12.pth',
        'iter_13.pth.1.part',
    ):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path, 'iter_{}.pth') == str(tmp_path / 'iter_10.pth')
    assert newest_checkpoint(tmp_path, 'epoch_{:d}.pth') == str(tmp_path / 'epoch_12.pth')
    assert newest_checkpoint(tmp_path, 'iter_9.pth') is None, 'a template without a number'


def test_a_run_goes_on_from_what_is_noted_or_else_from_the_highest_number(tmp_path: Path) -> None:
    assert newest_of_run(tmp_path) is None
    (tmp_path / 'epoch_12.pth').touch()
    assert newest_of_run(tmp_path) == str(tmp_path / 'epoch_12.pth')
    (tmp_path / 'iter_9.pth').touch()
    (tmp_path / 'iter_10.pth').touch()
    assert newest_of_run(tmp_path) == str(tmp_path / 'iter_10.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_9.pth')
    assert newest_of_run(str(tmp_path)) == str(tmp_path / 'iter_9.pth')


@pytest.mark.fault
def test_a_link_leads_out_of_no_folder(tmp_path: Path) -> None:
    run, other = tmp_path / 'run', tmp_path / 'other'
    run.mkdir()
    other.mkdir()
    names = ['config.py', 'iter_2.pth', 'iter_2.pth.7.part']
    for name in names:
        (other / name).write_text('precious')
    (run / 'student').symlink_to('../other')
    assert list(files_of_run(run, run, 'iter_{}.pth')) == []
    sweep(run)
    (run / LOCK).symlink_to('../other/config.py')
    with pytest.raises(
        RuntimeError,
        match=r'run\.lock is a link or no file, and would be written over\. Mend: delete',
    ):
        hold(run)
    assert {file.name: file.read_text() for file in other.iterdir()} == dict.fromkeys(
        names, 'precious'
    )


@pytest.mark.parametrize(
    'content',
    [
        4000 * '[',
        '[]',
        '\0',
        *(json.dumps(dict(host=socket.gethostname(), pid=pid, since=1)) for pid in (10**30, 'one')),
    ],
)
def test_a_lock_file_that_says_nonsense(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, 'no locks available')

    for _ in range(2):
        (tmp_path / LOCK).write_text(content)
        hold(tmp_path)
        assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()
        release(tmp_path)
        monkeypatch.setattr(work_dir.fcntl, 'lockf', no_locks)


def test_files_of_a_run_and_what_is_swept(tmp_path: Path) -> None:
    written = [
        'best_mIoU_iter_2.pth',
        'iter_4.pth',
        'student/config.py',
        'student/iter_4.pth',
        'student/peer0/iter_4.pth',
        'last_checkpoint',
        'run.json',
        'done.json',
    ]
    others = [
        'pretrained.pth',
        'my.py',
        'student/mine.pth',
        'vis/iter_4.pth',
        'notes.part',
        'iter_4.pth.part',
    ]
    left = ['iter_6.pth.123.part', 'student/peer0/iter_6.pth.9.part', 'last_checkpoint.4.part']
    for name in [*written, *others, *left]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(
        str(file.relative_to(tmp_path)) for file in files_of_run(tmp_path, tmp_path, 'iter_{}.pth')
    ) == sorted(written)
    sweep(tmp_path)
    there = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob('*') if file.is_file()}
    assert there == {*written, *others}
