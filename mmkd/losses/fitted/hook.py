"""FittingHook: parts of losses are fitted to teachers before the first step, or checked."""

from typing import Any

from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.losses.fitted.fitting import MAX_VECTORS, batches_of, fit_parts, sources_of
from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.training_images import training_images
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_count
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class FittingHook(Hook):
    """Fit what losses need of the teacher before training; check what is there already.

    That is the vocabulary of an AssignmentKLLoss and the paraphraser of a FactorTransferLoss, or
    any :class:`mmkd.losses.FittedPart`. Fitted are those that neither a checkpoint nor a file
    (``vocabulary=``) brought, on the run's training images under its validation pipeline, in one
    pass, by rank 0, which hands them to the others. They are in every checkpoint. The others must
    have been fitted to this teacher, tap and pooling. The run's random numbers are left alone, and
    so are runs without such a loss.

    Args:
        dataloader: ``dict(dataset=…, batch_size=1, num_workers=0)``; None: the run's training data
            set with its validation pipeline.
        images: How many images, evenly spaced; None takes all.
        max_vectors: Vectors of channels for each part, at most, spread over the images.
        seed: Of places and fits; None takes the run's.

    Raises:
        ValueError: A part of another teacher, tap or pooling; too few vectors for the words.
    """

    def __init__(
        self,
        dataloader: dict | None = None,
        images: int | None = None,
        max_vectors: int = MAX_VECTORS,
        seed: int | None = None,
    ) -> None:
        check_count('max_vectors', max_vectors, 1)
        if images is not None:
            check_count('images', images, 1)
        self.dataloader, self.images = dataloader, images
        self.max_vectors, self.seed = max_vectors, seed
        self.reports: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Fit or check; what a checkpoint holds is loaded by now."""
        model = unwrap(runner.model)
        sources = sources_of(model.objectives, model.runs) if hasattr(model, 'runs') else {}
        fresh = {}
        for name, source in sources.items():
            if source.part.fitted:
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
            for buffer in source.part.buffers():
                broadcast(buffer)

    def _fit(self, runner: Runner, sources: dict[str, Source]) -> dict[str, dict[str, float]]:
        seed = runner.seed if self.seed is None else self.seed
        loader = training_images(runner.cfg, self.dataloader, self.images, seed)
        batch_of = batches_of(unwrap(runner.model))
        return fit_parts(sources, loader, batch_of, self.max_vectors, seed)


@HOOKS.register_module()
class VocabularyHook(FittingHook):
    """The :class:`FittingHook` by the name that it had when it fitted vocabularies alone."""
