"""VocabularyHook: the vocabularies of QUEST are fitted before the first step, or checked."""

from mmengine.runner import Runner

from mmkd.losses.fitted.hook import FitHook
from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.training_images import training_images
from mmkd.losses.quest.assignment_kl import AssignmentKLLoss
from mmkd.losses.quest.fitter import MAX_VECTORS
from mmkd.losses.quest.fitting import batches_of, fit_vocabularies
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_count
from mmkd.utils.unwrap import unwrap


@HOOKS.register_module()
class VocabularyHook(FitHook):
    """Fit the vocabulary of every AssignmentKLLoss before training; check those that are there.

    Fitted are those that neither a checkpoint nor a file (``vocabulary=``) brought, on the run's
    training images under its validation pipeline, in one pass, by rank 0, which hands them to the
    others. They are in every checkpoint. The others must have been fitted to this teacher, tap and
    pooling. The run's random numbers are left alone, and so are runs without such a loss.

    Args:
        dataloader: ``dict(dataset=…, batch_size=1, num_workers=0)``; None: the run's training data
            set with its validation pipeline.
        images: How many images, evenly spaced; None takes all.
        max_vectors: Vectors for each vocabulary, at most, spread over the images.
        seed: Of positions and k-means; None takes the run's.

    Raises:
        ValueError: A vocabulary of another teacher, tap or pooling; too few vectors for the words.
    """

    priority = 'NORMAL'
    kind = AssignmentKLLoss

    def __init__(
        self,
        dataloader: dict | None = None,
        images: int | None = None,
        max_vectors: int = MAX_VECTORS,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataloader, images, seed)
        check_count('max_vectors', max_vectors, 1)
        self.max_vectors = max_vectors

    def _fit(self, runner: Runner, sources: dict[str, Source]) -> dict[str, dict[str, float]]:
        seed = runner.seed if self.seed is None else self.seed
        loader = training_images(runner.cfg, self.dataloader, self.images, seed)
        batch_of = batches_of(unwrap(runner.model))
        return fit_vocabularies(sources, loader, batch_of, self.max_vectors, seed)
