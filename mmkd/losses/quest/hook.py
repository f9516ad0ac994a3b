"""VocabularyHook: the vocabularies of QUEST are fitted before the first step, or checked."""

from typing import Any

from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.losses.quest.fitting import (
    MAX_VECTORS,
    check_vocabularies,
    fit_vocabularies,
    training_images,
    vocabulary_objectives,
)
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_count


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Fit the vocabulary of every AssignmentKLLoss before training; check those that are there already.

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
        self.dataloader, self.images, self.max_vectors, self.seed = (
            dataloader,
            images,
            max_vectors,
            seed,
        )
        self.reports: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Fit or check; what a checkpoint holds is loaded by now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        objectives = vocabulary_objectives(model) if hasattr(model, 'teachers') else {}
        if not objectives:
            return
        check_vocabularies(model)
        vocabularies = {name: objective.loss.vocabulary for name, objective in objectives.items()}
        fresh = [name for name, vocabulary in vocabularies.items() if not vocabulary.fitted]
        if not fresh:
            return
        failure: list[Any] = [None]
        if is_main_process():
            try:
                seed = runner.seed if self.seed is None else self.seed
                loader = training_images(runner.cfg, self.dataloader, self.images, seed)
                self.reports = fit_vocabularies(model, loader, fresh, self.max_vectors, seed)
            except Exception as error:
                failure = [error]
        broadcast_object_list(failure)  # else the other ranks would wait for words that never come
        if failure[0] is not None:
            raise failure[0]
        for name in fresh:
            for buffer in vocabularies[name].buffers():
                broadcast(buffer)
