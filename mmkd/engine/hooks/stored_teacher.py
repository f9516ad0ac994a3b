"""StoredTeacherHook: stored teachers fit the run, and know which iteration it is."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.distiller.members.run import teachers_of
from mmkd.engine.hooks.exact_resume import ExactResumeHook
from mmkd.registry import HOOKS
from mmkd.utils.stored.facts import facts_of_run
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class StoredTeacherHook(Hook):
    """Tell stored teachers which iteration it is; refuse before the first step what does not fit.

    ``mmkd train`` adds it where a teacher is ``dict(kind='stored', …)``. Runs without one are left
    alone.

    Raises:
        ValueError: The run sees other images than the stored teacher did, or more iterations; its
            data are no function of the iteration.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare the run with the one that was stored; what a checkpoint says is loaded by now."""
        stored = stored_runs(unwrap(runner.model))
        if not stored:
            return
        if not any(isinstance(hook, ExactResumeHook) for hook in runner.hooks):
            raise ValueError(
                f'{stored[0].where} is stored: its batches are known by their iteration, and '
                'without ExactResumeHook other images come in each run. Mend: '
                "custom_hooks=[dict(type='mmkd.ExactResumeHook'), …]"
            )
        here = facts_of_run(
            runner.cfg,
            unwrap(runner.model).data_preprocessor,
            runner._randomness_cfg.get('seed'),
        )
        for run in stored:
            run.begin(get_rank(), runner.max_iters, here)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Say which iteration it is."""
        for run in stored_runs(unwrap(runner.model)):
            run.iteration = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Close the files."""
        for run in stored_runs(unwrap(runner.model)):
            run.end()


def stored_runs(model: Any) -> list[Any]:
    """Return the stored teachers of a model, none of what is no Distiller."""
    return [run for run in teachers_of(getattr(model, 'runs', {})) if not run.live]
