"""FitHook: the parts of losses are fitted to their teachers before the first step, or checked."""

from typing import Any

from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.losses.fitted.contract import FittedLoss
from mmkd.losses.fitted.fitting import batches_of, fit_parts, fitters_of, sources_of
from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.training_images import training_images
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_count
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class FitHook(Hook):
    """Fit what losses keep of a frozen teacher before training; check what is there already.

    Fitted is what neither a checkpoint nor a file brought, on the run's training images under its
    validation pipeline, by rank 0, which hands it to the others. It is in every checkpoint. The
    rest must have been fitted to this teacher and tap. The run's random numbers are left alone, and
    so are runs without such a loss.

    Args:
        dataloader: ``dict(dataset=…, batch_size=1, num_workers=0)``; None: the run's training data
            set with its validation pipeline.
        images: How many images, evenly spaced; None takes all.
        seed: Of what is drawn; None takes the run's.

    Raises:
        ValueError: A part of another teacher or tap; images that nothing can be fitted to.
    """

    # After VocabularyHook, whose options are for the vocabularies of the same run.
    priority = 'BELOW_NORMAL'
    kind: type[FittedLoss] = FittedLoss

    def __init__(
        self, dataloader: dict | None = None, images: int | None = None, seed: int | None = None
    ) -> None:
        if images is not None:
            check_count('images', images, 1)
        self.dataloader, self.images, self.seed = dataloader, images, seed
        self.reports: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Fit or check; what a checkpoint holds is loaded by now."""
        model = unwrap(runner.model)
        sources = (
            sources_of(model.objectives, model.runs, self.kind) if hasattr(model, 'runs') else {}
        )
        fresh = {}
        for name, source in sources.items():
            if source.loss.part.fitted:
                source.check()
            else:
                fresh[name] = source
        if not fresh:
            return
        failure: list[Any] = [None]
        if is_main_process():
            try:
                self.reports = self._fit(runner, fresh)
            except Exception as error:
                failure = [error]
        broadcast_object_list(failure)  # else the other ranks would wait for what never comes
        if failure[0] is not None:
            raise failure[0]
        for source in fresh.values():
            for tensor in source.loss.part.state_dict().values():
                broadcast(tensor)

    def _fit(self, runner: Runner, sources: dict[str, Source]) -> dict[str, dict[str, float]]:
        seed = runner.seed if self.seed is None else self.seed
        loader = training_images(
            runner.cfg, self.dataloader, self.images, seed, type(self).__name__
        )
        batch_of = batches_of(unwrap(runner.model))
        return fit_parts(sources, fitters_of(sources, loader, seed), loader, batch_of)
