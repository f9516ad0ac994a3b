"""ExportStudentHook: a plain student beside each checkpoint."""

import re
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmkd.distiller.export import (
    STUDENTS,
    student_config,
    student_meta,
    student_state_dict,
    write_student,
)
from mmkd.registry import HOOKS
from mmkd.utils.checks import nearest
from mmkd.utils.config_file import readable_text
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Write ``<work_dir>/student/iter_N.pth`` and ``config.py`` whenever a checkpoint is saved.

    Segmentors and depth estimators are loaded by ``mmseg.apis.init_model('student/config.py',
    'student/iter_N.pth')`` where no mmkd is installed; others by their own library, and tested by
    ``mmkd test student/config.py student/iter_N.pth``.

    With EMA the averaged weights are written. A student goes when its checkpoint is gone
    (``max_keep_ckpts``), at the next save. Runs without a Distiller are left alone.

    Args:
        members: The students to write; None writes all. Several students get a folder each.

    Raises:
        KeyError: ``members`` names a student that is not there.
        TypeError: ``members`` is no list; a student was given as a built model, so that no config
            can be written for it.
    """

    # After EMAHook (NORMAL), which swaps the averaged weights into the checkpoint.
    priority = 'LOW'

    def __init__(self, members: list[str] | None = None) -> None:
        if isinstance(members, str):
            raise TypeError(
                f'members of ExportStudentHook must be a list of names, got {members!r}. Mend: '
                f'members=[{members!r}]'
            )
        self.members = members
        self.configs: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        """Make the configs now: a student that has none would end the run at its first checkpoint.

        Students are dropped whose checkpoint a killed run, or one on a full disk, did not come to
        write.
        """
        self._read_configs(runner)
        self._prune_all(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the students of this checkpoint."""
        self._read_configs(runner)
        meta = checkpoint['meta']
        # the files that the run's config names may be others by the time of an export
        meta[STUDENTS] = dict(self.configs)
        kind = 'epoch' if _by_epoch(runner) else 'iter'
        for name, config in self.configs.items():
            path = self._folder(runner, name) / f'{kind}_{meta[kind]}.pth'
            write_student(
                student_state_dict(checkpoint['state_dict'], name),
                student_meta(meta, name),
                path,
                config,
            )
            _prune(path.parent, _checkpoint_folder(runner), meta[kind])

    def after_train(self, runner: Runner) -> None:
        """Drop what the last save left behind."""
        self._prune_all(runner)

    @master_only  # another rank may be here while the first one still writes the last checkpoint
    def _prune_all(self, runner: Runner) -> None:
        for name in self.configs:
            _prune(self._folder(runner, name), _checkpoint_folder(runner))

    def _read_configs(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if self.configs or not hasattr(model, 'students'):
            return
        students: nn.ModuleDict = model.students
        for name in self.members or students:
            if name not in students:
                raise KeyError(
                    f'ExportStudentHook: members names {name!r}, which is no student'
                    f'{nearest(name, students)} (students: {list(students)})'
                )
            config = student_config(model.runs[name].member, runner.cfg)
            self.configs[name] = readable_text(config)
        self.several = len(students) > 1

    def _folder(self, runner: Runner, name: str) -> Path:
        folder = Path(runner.work_dir) / 'student'
        return folder / name if self.several else folder


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _by_epoch(runner: Runner) -> bool:
    """Return how checkpoints count: students are called as they are."""
    hook = _checkpoint_hook(runner)
    return isinstance(runner.train_loop, EpochBasedTrainLoop) if hook is None else hook.by_epoch


def _checkpoint_folder(runner: Runner) -> Path:
    hook = _checkpoint_hook(runner)
    # mmengine joins out_dir and the name of the run when the training begins, which is after this
    # hook's turn
    return Path(getattr(hook, 'folder', None) or getattr(hook, 'out_dir', None) or runner.work_dir)


def _prune(students: Path, checkpoints: Path, being_saved: int | None = None) -> None:
    """Drop students whose checkpoint is gone; a file that the hook did not write stays."""
    if not checkpoints.is_dir():  # another storage
        return
    folders = {students, students.parent} - {checkpoints}
    if any(folder.is_symlink() for folder in folders):  # foreign files
        return
    # the last number of iter_10.pth, best_mIoU_iter_10.pth, and whatever filename_tmpl says
    kept = {
        int(numbers[-1])
        for file in checkpoints.glob('*.pth')
        if (numbers := re.findall(r'\d+', file.stem))
    }
    for file in students.glob('*.pth'):
        number = re.fullmatch(r'(?:iter|epoch)_(\d+)', file.stem)
        if number and int(number[1]) not in {*kept, being_saved}:
            file.unlink()
