"""What is written into a deployed file: preprocessing, the network, and nothing behind its logits.

Mean, standard deviation, order of channels and padding lie inside, so that a program in another
language feeds plain pixels and cannot get them wrong.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.tasks.base import task_of
from mmkd.tasks.text import Text
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
        self.eval()

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
        cfg: Any = self.model.test_cfg
        return self._slide(x, cfg) if cfg.get('mode') == 'slide' else self.by_the_model(x)

    def by_the_model(self, x: Tensor) -> Tensor:
        """Return the output as the model's own test computes it, which cannot always be traced."""
        if self.kind == 'classification':
            return self.model(x, mode='tensor')
        return self._cut(self.model.inference(x, [_known(self.padded)]))  # type: ignore[operator]

    def _slide(self, x: Tensor, cfg: Any) -> Tensor:
        """Return the mean over windows; mmseg's own asks a tensor for a number: no graph."""
        total: Tensor | float = 0.0
        count = x.new_zeros(1, 1, *self.padded)
        pairs = zip(self.padded, cfg.crop_size, cfg.stride, strict=True)
        rows, columns = (windows(*pair) for pair in pairs)
        for (top, low), (left, right) in product(rows, columns):
            known = _known((low - top, right - left))
            part = self.model.encode_decode(x[..., top:low, left:right], [known])  # type: ignore[operator]
            margins = (left, self.padded[1] - right, top, self.padded[0] - low)
            total = total + F.pad(part, margins)
            count = count + F.pad(torch.ones_like(count[..., top:low, left:right]), margins)
        return self._cut(total / count)

    def _cut(self, maps: Tensor) -> Tensor:
        height, width = self.size
        return maps[..., :height, :width]

    @property
    def threshold(self) -> float:
        """Above which the sigmoid of one channel is the foreground."""
        return getattr(self.model.decode_head, 'threshold', 0.5)

    def labels(self, output: Tensor) -> Tensor | None:
        """Return the labels that an output means; None of depth, which has none."""
        if self.kind == 'depth':
            return None
        if output.shape[1] > 1:
            return output.argmax(1)
        return (output.sigmoid() > self.threshold)[:, 0].long()


def windows(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Return where windows begin and end; the last one ends where the image does.

    >>> windows(10, 4, 3), windows(3, 4, 3)
    ([(0, 4), (3, 7), (6, 10)], [(0, 3)])
    """
    number = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(index * stride + crop, length) for index in range(number)]
    return [(max(end - crop, 0), end) for end in ends]


def _known(size: tuple[int, ...]) -> dict[str, Any]:
    return dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), tuple(size))


def check_kind(model: nn.Module) -> str:
    """Return the kind of a model that can be written into one graph.

    Raises:
        ValueError: It is a detector, reads text, or is nothing that mmkd knows.
    """
    task = task_of(model)
    kind = 'text' if isinstance(task, Text) else task.kind
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
