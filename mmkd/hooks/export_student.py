"""ExportStudentHook: a plain student beside each checkpoint."""
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.export import student_config, student_meta, student_state_dict, write_student
from mmkd.registry import HOOKS


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Write ``<work_dir>/student/iter_N.pth`` and ``config.py`` whenever a checkpoint is saved.

    ``mmseg.apis.init_model('student/config.py', 'student/iter_N.pth')`` loads them where no mmkd is installed. With EMA the
    averaged weights are written. Runs without a Distiller are left alone.

    Args:
        members: The students to write; None writes all. Several students get a folder each.
    """

    # After EMAHook (NORMAL), which swaps the averaged weights into the checkpoint.
    priority = 'LOW'

    def __init__(self, members: list[str] | None = None) -> None:
        self.members = members

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the students of this checkpoint."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'students') or not is_main_process():
            return
        meta = checkpoint['meta']
        by_epoch = runner.train_loop.__class__.__name__.startswith('Epoch')
        stem = f'epoch_{meta["epoch"]}' if by_epoch else f'iter_{meta["iter"]}'
        for name in self.members or list(model.students):
            folder = Path(runner.work_dir) / 'student'
            folder = folder if len(model.students) == 1 else folder / name
            write_student(student_state_dict(checkpoint['state_dict'], name), student_meta(meta, name), folder / f'{stem}.pth')
            config = student_config(model.members[name], runner.cfg, runner.cfg.model.get('data_preprocessor'))
            config.dump(str(folder / 'config.py'))
            self._prune(folder, Path(runner.work_dir), stem)

    @staticmethod
    def _prune(folder: Path, work_dir: Path, stem: str) -> None:
        """Drop students whose checkpoint is gone (max_keep_ckpts)."""
        for file in folder.glob('*.pth'):
            if file.stem != stem and not any(work_dir.glob(f'*{file.stem}.pth')):
                file.unlink()
