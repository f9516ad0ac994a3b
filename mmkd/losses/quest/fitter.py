"""What a vocabulary is fitted to: vectors of a teacher's map, pooled as the loss pools it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmkd.losses.fitted.contract import Fitter
from mmkd.losses.fitted.source import Source
from mmkd.losses.fitted.spread import MAX_VECTORS as MAX_VECTORS
from mmkd.losses.fitted.spread import spread
from mmkd.losses.quest.maps import pool_map, positions
from mmkd.structures.batch import Batch, read_batch


class VocabularyFitter(Fitter):
    """Gather vectors from positions at random, spread evenly over the images; then find words.

    Args:
        source: Of the vocabulary.
        images: How many there are.
        generator: Of the positions.
        seed: Of the k-means; None takes the generator's first seed.
        max_vectors: How many vectors, at most.
    """

    def __init__(
        self,
        source: Source,
        images: int,
        generator: torch.Generator,
        seed: int | None = None,
        max_vectors: int = MAX_VECTORS,
    ) -> None:
        self.source, self.images, self.generator = source, images, generator
        self.seed = generator.initial_seed() if seed is None else seed
        self.max_vectors = max_vectors
        self._done = 0
        self._vectors: list[Tensor] = []

    def see(self, features: Tensor, batch: Batch) -> None:
        """Take vectors of each image."""
        for own in vectors_of(self.source, features, batch):
            quota = spread(self.max_vectors, self.images, self._done)
            self._done += 1
            chosen = torch.randperm(len(own), generator=self.generator)[:quota]
            self._vectors.append(own[chosen.to(own.device)].float().cpu())

    def finish(self) -> dict[str, float]:
        """Find the words."""
        vectors = torch.cat(self._vectors)
        self._vectors = []
        return self.source.loss.vocabulary.fit(vectors, self.seed)

    def tell(self, report: dict[str, float]) -> str:
        """Return how the words serve the vectors."""
        words = len(self.source.loss.vocabulary.words)
        return (
            f'{words} words fitted to {report["vectors"]} vectors: mean squared distance '
            f'{report["inertia"]:.4g}, perplexity of words used {report["words_used"]:.1f}; tau '
            f'{report["tau"]:.4g}: mean max p_T {report["confidence"]:.3f}, perplexity of an '
            f'assignment {report["assignment"]:.2f}'
        )


def vectors_of(source: Source, features: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Yield the vectors (P, C) of each image of a batch.

    Args:
        source: Says whether places without a label are left out, and its loss how to pool.
        features: What the teacher's tap saw of it.
        batch: The batch.
    """
    pooled = pool_map(features, source.loss.pooling)
    valid = read_batch(batch, 'valid', pooled) if source.masked else [None] * len(pooled)
    for image, mask in zip(pooled.split(1), valid, strict=True):
        yield positions(image, None if mask is None else mask[None])
