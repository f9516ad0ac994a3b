"""Checkpoints that a full disk, Ctrl-C, a kill or a second run cannot destroy."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, ValLoop

from mmkd.evaluation.reported_metrics import check_best_metrics, reported_metrics
from mmkd.registry import HOOKS
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import (
    latest_checkpoint,
    load_checkpoint_file,
    trusts_checkpoints,
)
from mmkd.utils.checks import check_keys, printable
from mmkd.utils.work_dir import (
    BEGUN,
    files_of_run,
    hold,
    is_checkpoint_name,
    newest_checkpoint,
    on_main_process,
    release,
    sweep,
)

BACKEND = 'mmkd_atomic'
VALIDATED = 'mmkd_validated'  # in the message hub: the iteration whose validation is in it
SUPERSEDED = 'mmkd_superseded'  # the files that go once the checkpoint is written that says so


class AtomicBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to ``filepath`` as a whole or not at all."""
        write_atomically(obj, filepath)


register_backend(BACKEND, AtomicBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, in an order that always leaves a good checkpoint.

    mmengine deletes the oldest checkpoint (and the previous best one) first and then writes the new
    one in place, so a full disk with ``max_keep_ckpts=1`` leaves none. Here the new file is written
    beside its final name, synced and renamed; then ``last_checkpoint`` is replaced, also
    atomically; then old files are deleted. While a checkpoint is written the disk therefore holds
    one more than ``max_keep_ckpts``.

    A run that is killed at any place and resumed leaves what it would have left otherwise: a
    validation that was due and is not in the checkpoint is done first, and what should have been
    deleted is. Files are known by their names alone, so that a folder may be moved or copied, and
    nothing outside of it is read or deleted.

    A folder belongs to one run at a time (``run.lock``), and a fresh start where a run lies is
    refused unless the config says ``overwrite=True`` (``mmkd train --overwrite``), which
    deletes that run's checkpoints.

    Every argument is mmengine's (``interval``, ``by_epoch``, ``max_keep_ckpts``, ``save_best``,
    ``save_last``, …) and keeps its meaning; only the deprecated ``file_client_args`` is refused,
    and an ``out_dir`` on another storage.
    ``last_checkpoint`` lies beside the checkpoints, in ``out_dir`` where one is given.

    Raises:
        OSError: a file could not be written; the message names the checkpoint that stays.
        FileExistsError: a fresh start where the checkpoints of a run lie.
        RuntimeError: another run holds the folder.
        ValueError: ``file_client_args`` was given, or an ``out_dir`` that is not local.
        KeyError: ``save_best`` names no metric of the validation, found before the first step.
        TypeError: a keyword that mmengine's hook does not have; the runner is a FlexibleRunner,
            whose strategies write checkpoints by themselves.
    """

    best_ckpt_path: str | None
    folder: Path
    _begun = _tried = False
    _previous: dict[str, str] = {}  # the best ones while better ones are saved

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # mmengine hands on what it does not know, to die of it when the first checkpoint is saved
        known = [
            name
            for name, p in signature(CheckpointHook.__init__).parameters.items()
            if name != 'self' and p.kind != p.VAR_KEYWORD
        ]
        check_keys(kwargs, known, 'SafeCheckpointHook')
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError(
                f'SafeCheckpointHook takes no file_client_args (got {self.file_client_args}): '
                'mmengine has deprecated it; write backend_args instead'
            )
        if '://' in str(self.out_dir):
            raise ValueError(
                f'SafeCheckpointHook: out_dir={self.out_dir!r} is on another storage, where no run '
                'can be held, swept or resumed. Mend: a local out_dir, and copies of it; or '
                "default_hooks.checkpoint=dict(type='CheckpointHook', …), which does none of these"
            )

    def before_run(self, runner: Runner) -> None:
        """Hold the folder of a training, and find what is resumed in it."""
        if hasattr(runner, 'strategy'):
            raise TypeError(
                f'SafeCheckpointHook serves Runner, got {type(runner).__name__}: its strategy '
                "writes checkpoints by itself; use type='CheckpointHook' there"
            )
        trains = isinstance(runner._train_loop, BaseLoop)
        if self._begun or not trains:  # a test, of a runner that trained perhaps
            return
        work_dir = Path(runner.work_dir)
        own = self.out_dir in (None, runner.work_dir)
        # as mmengine will join them when the training begins
        self.folder = work_dir if own else Path(self.out_dir, work_dir.name)
        on_main_process(partial(self._take, runner))
        self._begun = True
        if runner._resume and runner._load_from is None:
            runner._load_from = latest_checkpoint(self.folder) or newest_checkpoint(
                self.folder, self.filename_tmpl
            )
            if runner._load_from is None:
                runner.logger.warning(
                    f'{self.folder} holds no checkpoint to resume: the training begins anew'
                )

    def _take(self, runner: Runner) -> None:
        for folder in self._held(runner):
            try:
                hold(folder)
            except BaseException:
                self._release(runner)
                raise
        sweep(Path(runner.work_dir), self.folder)
        there = list(files_of_run(Path(runner.work_dir), self.folder, self.filename_tmpl))
        if runner._resume:
            return
        if there and not runner.cfg.get('overwrite'):
            self._release(runner)
            raise FileExistsError(
                f'{runner.work_dir} holds a run already '
                f'({", ".join(file.name for file in there[:3])}{", …" if len(there) > 3 else ""}), '
                'whose checkpoints a fresh start would mix with its own. Mend: --resume to go on '
                'with it, another --work-dir, or --overwrite to delete its checkpoints'
            )
        if there:
            runner.logger.warning(
                f'--overwrite: {len(there)} files of the run before are deleted from '
                f'{runner.work_dir}'
            )
        for file in (*there, Path(runner.work_dir) / BEGUN):
            file.unlink(missing_ok=True)

    def after_run(self, runner: Runner) -> None:
        """Let go of the folder."""
        if is_main_process():
            self._release(runner)

    def _held(self, runner: Runner) -> list[Path]:
        """Return the folders of the run; that of ``out_dir`` is shared by work dirs of one name."""
        return list(dict.fromkeys([Path(runner.work_dir), self.folder]))

    def _release(self, runner: Runner) -> None:
        if hasattr(self, 'folder'):  # a training
            for folder in self._held(runner):
                release(folder)

    def before_train(self, runner: Runner) -> None:
        """Choose the atomic backend for a local folder; do what a resumed run left undone."""
        self._check_notes(runner)
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.backend_args = dict(backend=BACKEND)
        loop = runner.val_loop
        if self.save_best and type(loop) is ValLoop:  # that of peers knows its names by itself
            found = reported_metrics(runner.model, loop.dataloader, loop.evaluator)
            check_best_metrics(self.key_indicators, found)
        if not runner._resume or runner.iter == 0:
            return
        step = runner.epoch if self.by_epoch else runner.iter
        self.last_ckpt = str(self.folder / self.filename_tmpl.format(step))
        for name in runner.message_hub.runtime_info.get(SUPERSEDED, []):
            self._delete(str(self.folder / name))
        if _validation_is_due(runner):
            runner.logger.info(
                f'the validation of iteration {runner.iter} is not in the checkpoint: it is done '
                'now'
            )
            assert runner.val_loop is not None
            runner.val_loop.run()

    def _check_notes(self, runner: Runner) -> None:
        """Take of what a checkpoint says about files no more than names that a run here gives."""
        notes = runner.message_hub.runtime_info
        for key in [key for key in notes if key == 'last_ckpt' or key.startswith('best_ckpt')]:
            name = str(notes[key]).replace('\\', '/').rpartition('/')[-1]
            if is_checkpoint_name(name, self.filename_tmpl):
                notes[key] = str(self.folder / name)
                continue
            runner.logger.warning(
                f'the checkpoint names {printable(notes[key], 80)!r} as its {key}, which no run of '
                'this folder writes; it is left out'
            )
            del notes[key]
        for key in [key for key in notes if key.startswith('best_score')]:
            if not _is_number(notes[key]):
                del notes[key]
        _keep_only(notes, 'keep_ckpt_ids', lambda step: type(step) is int)
        _keep_only(notes, SUPERSEDED, self._is_own_name)

    def _is_own_name(self, name: Any) -> bool:
        return isinstance(name, str) and is_checkpoint_name(name, self.filename_tmpl)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write names in place of paths: a folder may be moved or copied."""
        notes = checkpoint['message_hub']['runtime_info']
        for key in [key for key in notes if key == 'last_ckpt' or key.startswith('best_ckpt')]:
            notes[key] = Path(notes[key]).name
        for state in _states_of_schedules(checkpoint.get('param_schedulers')):
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]  # OneCycleLR's own function, which nothing that is read safely names
        stops = [
            dict(best_score=one.best_score, wait_count=one.wait_count) for one in _stops(runner)
        ]
        if stops:  # mmengine's hook forgets them
            checkpoint['mmkd_early_stopping'] = stops

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore what early stopping has counted, if the run is resumed."""
        stops = checkpoint.get('mmkd_early_stopping')
        if runner._resume and isinstance(stops, list):
            for hook, noted in zip(_stops(runner), stops, strict=False):
                hook.best_score, hook.wait_count = noted['best_score'], noted['wait_count']

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        # the best one of a run that was resumed in another folder lies in the first
        if ckpt_path and self.file_backend.isfile(ckpt_path):
            super()._publish_model(runner, ckpt_path)
        else:
            runner.logger.warning(f'{ckpt_path} is not there, so it is not published')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note that this validation is done; keep the best."""
        runner.message_hub.update_info(VALIDATED, runner.iter)
        super().after_val_epoch(runner, metrics or {})

    def _save_checkpoint(self, runner: Runner) -> None:
        with self._explain(runner):
            super()._save_checkpoint(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        evicted = [self.filename_tmpl.format(old) for old in self._keep(runner, step)]
        # without save_best mmengine knows no indicators
        current = self._best_paths() if self._previous else {}
        best = [old for key, old in self._previous.items() if current.get(key, old) != old]
        runner.message_hub.update_info(SUPERSEDED, [*evicted, *(Path(path).name for path in best)])
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(filename.encode(), self.folder / 'last_checkpoint')
            self._try_to_read(runner, self.folder / filename)
        for name in evicted:
            self._delete(self.file_backend.join_path(self.out_dir, name))

    def _try_to_read(self, runner: Runner, path: Path) -> None:
        """Read the first checkpoint, and warn now of what would be found at the end of the run."""
        if self._tried or trusts_checkpoints():
            return
        self._tried = True
        try:
            load_checkpoint_file(str(path))
        except Exception as error:
            runner.logger.warning(
                f'{path} was written, and is not read again, so that this run could not be '
                f'resumed, tested or exported: {error}. Mend: what a hook keeps in the message hub '
                'or in the checkpoint should be numbers, texts and tensors; --trust-checkpoint '
                'reads all else'
            )

    def _keep(self, runner: Runner, step: int) -> list[int]:
        """Enter ``step`` into the list of kept checkpoints, and return what leaves it."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return []
        full = len(self.keep_ckpt_ids) == self.max_keep_ckpts
        evicted = [self.keep_ckpt_ids.popleft()] if full else []
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return evicted

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        previous = self._previous = self._best_paths()
        self._forget_best()  # else mmengine deletes the previous best before it writes the new one
        try:
            with self._explain(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            current, self._previous = self._best_paths(), {}
            self._remember_best({**previous, **current})
        for indicator, path in current.items():
            old = previous.get(indicator)
            if old and old != path and self._delete(old):
                runner.logger.info(f'The previous best checkpoint {old} is removed')

    def _best_paths(self) -> dict[str, str]:
        """Return the best checkpoint of each metric that has one; a single metric is called ''."""
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
            stays = latest_checkpoint(self.folder)
            folder = Path(self.out_dir)
            free = (
                f', {shutil.disk_usage(folder).free / 2**20:.1f} MiB free'
                if folder.is_dir()
                else ''
            )
            raise OSError(
                error.errno,
                f'no checkpoint could be written to {folder} at iteration {runner.iter + 1} '
                f'({error.strerror or error}{free}). '
                + (f'{stays} stays and is good; ' if stays else 'There is no earlier one; ')
                + 'free some space or lower max_keep_ckpts, then go on with --resume',
            ) from error


def _states_of_schedules(schedulers: Any) -> Iterator[dict]:
    """Yield the state of each schedule, of every optimizer."""
    for one in schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]:
        yield from one


def _stops(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _keep_only(notes: dict[str, Any], key: str, wanted: Callable[[Any], bool]) -> None:
    """Keep of a list what is ``wanted``; nothing of what is no list."""
    if notes.get(key) is not None:
        found = notes[key] if isinstance(notes[key], list) else []
        notes[key] = list(filter(wanted, found))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def _validation_is_due(runner: Runner) -> bool:
    """Return whether a validation was due at the checkpoint, and its result is lost."""
    loop: Any = runner.train_loop
    if runner.val_loop is None or runner.message_hub.runtime_info.get(VALIDATED) == runner.iter:
        return False
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    step, last = (loop._epoch, loop._max_epochs) if by_epoch else (loop._iter, loop._max_iters)
    loop._decide_current_val_interval()
    return step >= loop.val_begin and (step % loop.val_interval == 0 or step == last)
