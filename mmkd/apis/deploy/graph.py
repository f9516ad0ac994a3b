"""What is written into a deployed file: preprocessing, the network, and nothing behind its logits.

Mean, standard deviation, order of channels and padding lie inside, so that a program in another
language feeds plain pixels and cannot get them wrong.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.tasks.base import task_of
from mmkd.utils.pixels import flips_channels, pad_value, pixel_statistics

# what an output is, by the kind of task
OUTPUTS = dict(
    segmentation='logits (N, C, H, W) of every pixel, before softmax or sigmoid',
    classification='logits (N, C), before softmax',
    depth='depth (N, 1, H, W), in the unit of the training (metres)',
)


class Graph(nn.Module):
    """A model that takes pixels (N, 3, H, W), 0 … 255, float32, as its data pipeline loads them.

    Args:
        model: A segmentor, a classifier or a depth estimator with a ``data_preprocessor``.
        size: Height and width of the images, which the graph is fixed to.
        padded: What the data preprocessor makes of this size, by pixels below and on the right.

    Raises:
        ValueError: A model of another task.
    """

    def __init__(
        self, model: nn.Module, size: tuple[int, int], padded: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.kind = check_kind(model)
        source: Any = model.data_preprocessor
        self.model, self.size, self.padded = model.eval(), size, padded or size
        self.flip, self.pad_value = flips_channels(source), pad_value(source)
        mean, std = pixel_statistics(source)
        self.register_buffer('mean', mean.clone(), persistent=False)
        self.register_buffer('std', std.clone(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits or depth; of maps, those of the pixels that were given."""
        return self.answer(self.preprocess(inputs))

    def preprocess(self, inputs: Tensor) -> Tensor:
        """Return what the network sees: channels turned, normalised, padded, in this order."""
        x = inputs.flip(1) if self.flip else inputs
        x = (x - self.get_buffer('mean')) / self.get_buffer('std')
        below, right = (big - own for big, own in zip(self.padded, self.size, strict=True))
        return F.pad(x, (0, right, 0, below), value=self.pad_value) if below or right else x

    def answer(self, x: Tensor) -> Tensor:
        """Return the output for images as the network sees them."""
        if self.kind == 'classification':
            return self.model(x, mode='tensor')
        known = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), self.padded)
        maps = self.model.inference(x, [dict(known)])  # type: ignore[operator]
        height, width = self.size
        return maps[..., :height, :width]

    def labels(self, output: Tensor) -> Tensor | None:
        """Return the labels that an output means; None of depth, which has none."""
        if self.kind == 'depth':
            return None
        if output.shape[1] > 1:
            return output.argmax(1)
        threshold = getattr(self.model.decode_head, 'threshold', 0.5)  # one channel: a foreground
        return (output.sigmoid() > threshold)[:, 0].long()


def check_kind(model: nn.Module) -> str:
    """Return the kind of a model that can be written into one graph.

    Raises:
        ValueError: It is a detector, reads text, or is nothing that mmkd knows.
    """
    kind = task_of(model).kind
    if kind in OUTPUTS:
        return kind
    mends = dict(
        detection='a detector is more than its network (anchors or points, NMS): mmdeploy, by the '
        'config.py and the weights that are written here',
        text="a text model goes with its tokenizer: transformers' own exporter",
    )
    raise ValueError(
        f'a {type(model).__name__} cannot be written as one graph of pixels and logits (can be: '
        f'{", ".join(OUTPUTS)}). Mend: '
        f'{mends.get(kind, "a model of one of these tasks")}'
    )
