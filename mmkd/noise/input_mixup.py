r"""Mixup of images, the same for students and teachers: function matching."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmkd.noise.base import SHARED, Noise
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.utils.checks import check_choice, check_positive


@MODELS.register_module()
class InputMixup(Noise):
    r"""Mix every image with another one of the batch; teachers and students see the same mixture.

    Paper: Beyer et al., Knowledge Distillation: A Good Teacher Is Patient and Consistent, CVPR
    2022, arXiv 2106.05237; Zhang et al., mixup, ICLR 2018, arXiv 1710.09412. As in the code of the
    first (google-research/big_vision): one λ a step, and every image with the one before it.

    .. math:: \tilde x_i = \lambda x_i + (1 - \lambda) x_{i-1},
              \quad \lambda = \max(a, 1 - a), \ a \sim \mathrm{Beta}(\alpha, \alpha)

    Labels fit no mixture: nothing that reads them may be there, unless images with labels are left
    alone. Mixing normalised images is mixing their pixels, since the weights sum to 1.

    Args:
        alpha: α above 0; 1 draws λ from [½, 1] evenly.
        images: 'all', or 'unlabelled': those without labels among themselves.

    Raises:
        ValueError: α that is not a finite number above 0; another word for ``images``.
        TypeError: The inputs are no images.

    >>> _ = torch.manual_seed(0)
    >>> mixed = InputMixup()(torch.eye(3).view(3, 1, 1, 3))
    >>> bool((mixed.diagonal(dim1=0, dim2=3) >= 0.5).all()), mixed.sum((1, 2, 3)).tolist()
    (True, [1.0, 1.0, 1.0])
    """

    role = SHARED

    def __init__(self, alpha: float = 1.0, images: str = 'all') -> None:
        super().__init__()
        check_positive('alpha of InputMixup', alpha)
        check_choice('images of InputMixup', images, ('all', 'unlabelled'))
        self.alpha, self.images = float(alpha), images
        self.spoils_labels = images == 'all'

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W), each mixed with the one before it; a single one as it is."""
        if images.dim() != 4 or not images.is_floating_point():
            raise TypeError(
                'InputMixup needs images (N, C, H, W) of floating point, got '
                f'{str(images.dtype).removeprefix("torch.")} {tuple(images.shape)}. Mend: images; '
                'token ids cannot be mixed'
            )
        alpha = torch.full((), self.alpha, dtype=torch.float64)
        drawn = torch.distributions.Beta(alpha, alpha).sample()
        share = torch.maximum(drawn, 1 - drawn).to(images)
        return share * images + (1 - share) * images.roll(1, 0)

    def on_batch(self, batch: Batch) -> Batch:
        """Return the batch of mixtures."""
        if self.images == 'all':
            samples = _as_large_as_both(batch.data_samples, range(len(batch.inputs)))
            return replace(batch, inputs=self(batch.inputs), data_samples=samples)
        places = batch.unlabelled_at
        if not places:
            return batch
        samples = _as_large_as_both(batch.data_samples, places)
        inputs = batch.inputs.clone()
        inputs[places] = self(batch.inputs[places])
        return replace(batch, inputs=inputs, data_samples=samples)


def _as_large_as_both(samples: list | None, places: Sequence[int]) -> list | None:
    """Return the samples of mixtures: padding is what lies outside of both images."""
    if not samples:
        return samples
    mixed = list(samples)
    for place, before in zip(places, [places[-1], *places[:-1]], strict=True):
        shapes = [samples[one].metainfo.get('img_shape') for one in (place, before)]
        if None not in shapes and shapes[0][:2] != shapes[1][:2]:
            mixed[place] = samples[place].new()  # labels are shared, not copied
            larger = tuple(map(max, zip(*(shape[:2] for shape in shapes), strict=True)))
            mixed[place].set_metainfo(dict(img_shape=larger))
    return mixed
