"""PGD: the attack by which robustness is measured, and a test loop that runs it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import loops
from mmengine.structures import PixelData
from torch import Tensor

from mmkd.registry import LOOPS
from mmkd.utils.checks import check_count, check_keys, check_non_negative, check_positive
from mmkd.utils.pixels import pixel_statistics

PGD_KEYS = ('epsilon', 'step', 'steps', 'random_start')


def pgd(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    epsilon: float = 0.031,
    step: float = 0.003,
    steps: int = 20,
    random_start: bool = True,
    unit: Tensor | float = 1.0,
    low: Tensor | float = 0.0,
    high: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Move images so that a loss grows, no value further than ``epsilon``.

    Paper: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    arXiv 1706.06083; the defaults are those of the evaluation of Arani et al., arXiv 1910.05057.

    .. math:: x_0 = \Pi(x + u),\ u \sim \mathcal U(-\epsilon, \epsilon), \quad
              x_{t+1} = \Pi(x_t + \eta\,\mathrm{sign}\,\nabla_x \ell(x_t)), \quad
              \Pi = \text{projection on } [x - \epsilon, x + \epsilon] \cap [0, 1]

    Args:
        loss: Images -> value, 0-d, or one an image: the images must not act on one another's.
        images: x, (N, C, H, W).
        epsilon: In units of [0, 1] pixels.
        step: eta, in the same unit.
        steps: How many.
        random_start: False starts at x.
        unit: What 1 of these units is in the images given: 255/std where they are normalised, by
            channel (C, 1, 1).
        low: The value of a black pixel in the images given.
        high: The value of a white one.
        generator: Of the random start; None: torch's global one.

    Returns:
        The moved images, without gradient.

    Raises:
        ValueError: An epsilon below 0, a step of 0 or below, fewer steps than 1.

    Examples:
        >>> x = torch.tensor([0.5, 0.01, 0.99]).view(1, 3, 1, 1)
        >>> pgd(lambda x: (x * torch.tensor([1., -1., 1.]).view(3, 1, 1)).sum(), x, 0.03, 0.02, 2, False).flatten()
        tensor([0.5300, 0.0000, 1.0000])
    """
    images = images.detach()
    check_non_negative('epsilon', epsilon)
    check_positive('step', step)
    check_count('steps', steps, 1)
    least, most = (
        (images + sign * epsilon * unit).clamp(min=torch.as_tensor(low), max=torch.as_tensor(high))
        for sign in (-1, 1)
    )
    moved = images.clone()
    if random_start:
        device = images.device if generator is None else generator.device
        draw = torch.rand(images.shape, dtype=images.dtype, device=device, generator=generator).to(
            images.device
        )
        moved = torch.lerp(images - epsilon * unit, images + epsilon * unit, draw).clamp(
            least, most
        )
    for _ in range(steps):
        with torch.enable_grad():
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = (moved.detach() + step * unit * gradient.sign()).clamp(least, most)
    return moved


@LOOPS.register_module()
class PGDTestLoop(loops.TestLoop):
    """Test on images that were moved against the model by :func:`pgd`: ``test_cfg=dict(type='mmkd.PGDTestLoop')``.

    The loss that grows is the model's own, as it computes it from labels, in eval mode; of a
    Distiller, that of the student that predicts. Images are attacked as the network gets them,
    after resizing, in the pixel units of the data preprocessor; padding stays as it is. The start
    is random, from a generator with a fixed seed.

    Args:
        runner: The Runner.
        dataloader: Test images with labels.
        evaluator: Metrics.
        fp16: Not supported.
        seed: Of the random start.
        **attack: ``epsilon``, ``step``, ``steps``, ``random_start`` of :func:`pgd`.

    Raises:
        TypeError: An unknown argument, with the nearest match.
        ValueError: ``fp16``.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        fp16: bool = False,
        seed: int = 0,
        **attack: Any,
    ) -> None:
        check_keys(attack, PGD_KEYS, 'PGDTestLoop')
        if fp16:
            raise ValueError(
                'PGDTestLoop attacks in the precision of the weights. Mend: fp16=False'
            )
        super().__init__(runner, dataloader, evaluator)
        self.attack, self.generator = attack, torch.Generator().manual_seed(seed)

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Attack one batch and predict what is left of it."""
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        model = (
            self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        )
        network: BaseModel = (
            model.students[model.predict_with] if hasattr(model, 'predict_with') else model
        )
        batch = model.data_preprocessor(data_batch, False)
        images, samples = batch['inputs'], batch['data_samples']
        unit, low, high = pixel_units(model.data_preprocessor, images)
        inside = _not_padded(images, samples)
        padded = [_with_padded_labels(sample, tuple(images.shape[2:])) for sample in samples]

        def loss(x: Tensor) -> Tensor:
            return network.parse_losses(network(x.where(inside, images), padded, mode='loss'))[0]

        moved = pgd(
            loss, images, unit=unit, low=low, high=high, generator=self.generator, **self.attack
        )
        with torch.no_grad():
            outputs = network(moved.where(inside, images), samples, mode='predict')
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook(
            'after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )


def pixel_units(preprocessor: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what 1/1 of a [0, 1] pixel is after a data preprocessor, what black and what white are, each (C, 1, 1).

    >>> from mmengine.model import ImgDataPreprocessor
    >>> preprocessor = ImgDataPreprocessor(mean=[127.5] * 3, std=[51.] * 3)
    >>> [x.flatten().tolist() for x in pixel_units(preprocessor, torch.zeros(1, 3, 2, 2))]
    [[5.0, 5.0, 5.0], [-2.5, -2.5, -2.5], [2.5, 2.5, 2.5]]
    """
    mean, std = (x.to(images) for x in pixel_statistics(preprocessor))
    return 255 / std, -mean / std, (255 - mean) / std


def _with_padded_labels(sample: Any, size: tuple[int, ...]) -> Any:
    """Return a sample whose label map covers the padding too, ignored there; mmseg pads images alone in a test."""
    shape = tuple(sample.metainfo.get('img_shape', size)[:2])
    if shape == size or 'gt_sem_seg' not in sample:
        return sample
    labels = sample.gt_sem_seg.data
    # Labels may be larger than the image that the network gets.
    extra = [
        round(total * own / part) - own
        for total, part, own in zip(size, shape, labels.shape[-2:], strict=True)
    ]
    copy = sample.clone()
    copy.gt_sem_seg = PixelData(data=F.pad(labels, (0, extra[1], 0, extra[0]), value=255))
    return copy


def _not_padded(images: Tensor, samples: Sequence[Any]) -> Tensor:
    inside = torch.ones_like(images[:, :1], dtype=torch.bool)
    for own, sample in zip(inside, samples, strict=True):
        height, width = sample.metainfo.get('img_shape', images.shape[2:])[:2]
        own[:, height:], own[:, :, width:] = False, False
    return inside
