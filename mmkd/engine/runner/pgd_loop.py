"""PGDTestLoop: a test on images that were moved against the model."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.runner import loops
from torch import Tensor

from mmkd.evaluation.functional.pgd import pgd, pixel_units
from mmkd.registry import LOOPS
from mmkd.tasks.base import tasks_of_samples
from mmkd.utils.checks import check_keys
from mmkd.utils.unwrap import unwrap

PGD_KEYS = ('epsilon', 'step', 'steps', 'random_start')


@LOOPS.register_module()
class PGDTestLoop(loops.TestLoop):
    """Test on images that were moved against the model by :func:`pgd`.

    It is asked for by ``test_cfg=dict(type='mmkd.PGDTestLoop')``. The loss that grows is the
    model's own, as it computes it from labels, in eval mode; of a Distiller, that of the student
    that predicts. Images are attacked as the network gets them, after resizing, in the pixel units
    of the data preprocessor; padding stays as it is. The start is random, from a generator with a
    fixed seed.

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
        model = unwrap(self.runner.model)
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


def _with_padded_labels(sample: Any, size: tuple[int, ...]) -> Any:
    """Return a sample whose labels cover the padding too; mmseg pads images alone in a test."""
    for task in tasks_of_samples([sample]):
        sample = task.pad_labels(sample, size)
    return sample


def _not_padded(images: Tensor, samples: Sequence[Any]) -> Tensor:
    inside = torch.ones_like(images[:, :1], dtype=torch.bool)
    for own, sample in zip(inside, samples, strict=True):
        height, width = sample.metainfo.get('img_shape', images.shape[2:])[:2]
        own[:, height:], own[:, :, width:] = False, False
    return inside
