"""Checkpoints that a full disk, Ctrl-C or a power cut cannot destroy."""
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from mmkd.atomic import PART, write_atomically
from mmkd.registry import HOOKS

BACKEND = 'mmkd_atomic'


class AtomicBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath`` as a whole or not at all."""
        write_atomically(obj, filepath)


register_backend(BACKEND, AtomicBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, in an order that always leaves a good checkpoint.

    mmengine deletes the oldest checkpoint (and the previous best one) first and then writes the new one in
    place, so a full disk with ``max_keep_ckpts=1`` leaves none. Here the new file is written beside its final
    name, synced and renamed; then ``last_checkpoint`` is replaced, also atomically; then old files are deleted.
    While a checkpoint is written the disk therefore holds one more than ``max_keep_ckpts``.

    Every argument is mmengine's (``interval``, ``by_epoch``, ``max_keep_ckpts``, ``save_best``, ``save_last``, …)
    and keeps its meaning; only the deprecated ``file_client_args`` is refused.

    Raises:
        OSError: a file could not be written; the message names the checkpoint that stays.
        ValueError: ``file_client_args`` was given.
        TypeError: the runner is a FlexibleRunner, whose strategies write checkpoints by themselves.
    """

    best_ckpt_path: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError(f'SafeCheckpointHook takes no file_client_args (got {self.file_client_args}): '
                             'mmengine has deprecated it; write backend_args instead')

    def before_train(self, runner: Runner) -> None:
        """Choose the atomic backend for a local folder and sweep what a killed run left half written."""
        if hasattr(runner, 'strategy'):
            raise TypeError(f'SafeCheckpointHook serves Runner, got {type(runner).__name__}: its strategy writes '
                            "checkpoints by itself; use type='CheckpointHook' there")
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend=BACKEND)
            if is_main_process():
                for leftover in Path(self.out_dir).glob(f'*.pth{PART}'):
                    leftover.unlink()

    def _save_checkpoint(self, runner: Runner) -> None:
        with self._explain(runner):
            super()._save_checkpoint(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        evicted = self._keep(runner, step)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, filename, save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
            meta=meta, by_epoch=self.by_epoch, backend_args=self.backend_args, **self.args)
        if is_main_process():
            write_atomically(str(self.last_ckpt).encode(), Path(runner.work_dir) / 'last_checkpoint')
        for old in evicted:
            self._delete(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _keep(self, runner: Runner, step: int) -> list[int]:
        """Enter ``step`` into the list of kept checkpoints, which the file itself holds; return what leaves it."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return []
        evicted = [self.keep_ckpt_ids.popleft()] if len(self.keep_ckpt_ids) == self.max_keep_ckpts else []
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return evicted

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        previous = self._best_paths()
        self._forget_best()  # else mmengine deletes the previous best before it writes the new one
        try:
            with self._explain(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            current = self._best_paths()
            self._remember_best({**previous, **current})
        for indicator, path in current.items():
            old = previous.get(indicator)
            if old and old != path and self._delete(old):
                runner.logger.info(f'The previous best checkpoint {old} is removed')

    def _best_paths(self) -> dict[str, str]:
        """Return the best checkpoint of each metric that has one; a single metric goes by the name ''."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path} if self.best_ckpt_path else {}
        return {name: path for name, path in self.best_ckpt_path_dict.items() if path}

    def _forget_best(self) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(self.key_indicators)

    def _remember_best(self, paths: dict[str, str]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths.get('')
        else:
            self.best_ckpt_path_dict.update(paths)

    def _delete(self, path: str) -> bool:
        if not is_main_process() or not self.file_backend.isfile(path):
            return False
        self.file_backend.remove(path)
        return True

    @contextmanager
    def _explain(self, runner: Runner) -> Iterator[None]:
        """Turn an OSError into one that says what stays and what to do."""
        try:
            yield
        except OSError as error:
            stays = _last_checkpoint(runner.work_dir)
            folder = Path(self.out_dir)
            free = f', {shutil.disk_usage(folder).free / 2 ** 20:.1f} MiB free' if folder.is_dir() else ''
            raise OSError(
                error.errno, f'no checkpoint could be written to {folder} at iteration {runner.iter + 1} '
                f'({error.strerror or error}{free}). '
                + (f'{stays} stays and is good; ' if stays else 'There is no earlier one; ')
                + 'free some space or lower max_keep_ckpts, then go on with --resume') from error


def _last_checkpoint(work_dir: str | Path) -> str | None:
    """Return the newest checkpoint of a work directory, or None where none was written yet."""
    return find_latest_checkpoint(str(work_dir)) if (Path(work_dir) / 'last_checkpoint').is_file() else None
