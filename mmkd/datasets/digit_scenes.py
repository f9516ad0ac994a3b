"""Scenes of handwritten digits: a segmentation data set that needs no download."""

from functools import cache
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset

from mmkd.datasets.arguments import check_arguments
from mmkd.registry import DATASETS
from mmkd.utils.checks import check_choice, check_count, check_share

# Neighbours in the source tend to be by one writer: contiguous blocks keep handwriting apart as
# well as digits.
SPLITS = dict(train=(0, 1257), val=(1257, 1437), test=(1437, 1797))
# Ink from here on is the digit's: between two of the source's 17 levels, so no rounding decides.
INK = 0.47
OWN = ('split', 'num_scenes', 'size', 'seed', 'num_digits', 'digit_size', 'clutter', 'noise')


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    # 1,797 digits from scikit-learn's own folder, in about 20 ms
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) / 16).astype(np.float64), labels.astype(np.int64)


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the handwritten digits of one split: ink (n, 8, 8) in [0, 1] and labels (n,) in 0…9.

    The three splits share no digit.

    >>> ink, labels = split_digits('val')
    >>> ink.shape, float(ink.max()), labels[:5].tolist()
    ((180, 8, 8), 1.0, [4, 0, 5, 3, 6])
    """
    check_choice('split', split, SPLITS)
    start, stop = SPLITS[split]
    ink, labels = _digits()
    return ink[start:stop], labels[start:stop]


def scramble(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the four quadrants of a digit, to any other order: its strokes without its shape."""
    a, b, c, d = ink[:4, :4], ink[:4, 4:], ink[4:, :4], ink[4:, 4:]
    shuffled = [[d, c, b, a], [b, d, a, c], [c, a, d, b], [d, a, c, b]][rng.integers(4)]
    return np.block([shuffled[:2], shuffled[2:]])


def sample_ink(
    ink: np.ndarray, size: int, centre: tuple[float, float], side: float, angle: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Draw one digit on a canvas: bilinear, turned by ``angle`` and ``side`` pixels wide.

    Pixel (y, x) of the canvas reads the digit at ``R(angle)·((y, x) − centre)·8/side + 3.5``;
    outside is 0.

    Args:
        ink: Digit of shape (8, 8).
        size: Side of the canvas in pixels.
        centre: (y, x) in pixels; pixel centres lie at whole numbers.
        side: Side of the digit in pixels.
        angle: Rotation in radians.

    Returns:
        The window of the canvas that the digit can touch, and the ink inside it.
    """
    # Half the diagonal, with the half pixel over which bilinear ink fades.
    reach = side * 0.7072 * 9 / 8 + 1
    top, left = (int(max(0, np.floor(c - reach))) for c in centre)
    bottom, right = (int(min(size, np.ceil(c + reach) + 1)) for c in centre)
    dy = (np.arange(top, bottom) - centre[0])[:, None] * (8 / side)
    dx = (np.arange(left, right) - centre[1])[None] * (8 / side)
    cos, sin = np.cos(angle), np.sin(angle)
    y = np.clip(cos * dy - sin * dx + 4.5, 0, 9)  # in the digit with a border of zeros, 10×10
    x = np.clip(sin * dy + cos * dx + 4.5, 0, 9)
    padded = np.zeros((10, 10))
    padded[1:9, 1:9] = ink
    y0, x0 = np.minimum(y.astype(int), 8), np.minimum(x.astype(int), 8)
    fy, fx = y - y0, x - x0
    drawn = (1 - fy) * ((1 - fx) * padded[y0, x0] + fx * padded[y0, x0 + 1]) + fy * (
        (1 - fx) * padded[y0 + 1, x0] + fx * padded[y0 + 1, x0 + 1]
    )
    return (slice(top, bottom), slice(left, right)), drawn


def compose_scene(
    ink: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    size: int = 64,
    num_digits: tuple[int, int] = (5, 8),
    digit_size: tuple[float, float] = (14, 24),
    clutter: int = 2,
    noise: float = 0.06,
) -> tuple[np.ndarray, np.ndarray]:
    """Compose one scene and its label map, drawing every choice from ``rng``.

    In order: a smooth coloured background; ``clutter`` scrambled digits, which are background; the
    digits, later ones over earlier ones; Gaussian noise. Where the ink of a digit is at least
    ``INK``, its class is the label.

    Args:
        ink: Digits to choose from, (n, 8, 8) in [0, 1].
        labels: Their values 0…9, (n,).
        rng: Source of every choice.
        size: Side of the square scene in pixels.
        num_digits: Fewest and most digits.
        digit_size: Smallest and largest digit in pixels.
        clutter: Number of scrambled digits beneath the digits.
        noise: Standard deviation of the noise, in units of the full range of a pixel.

    Returns:
        Image (size, size, 3) and label map (size, size) of 0 (background) or digit + 1, both uint8.
    """
    ramp = np.linspace(0, 1, size)
    blend = np.stack([1 - ramp, ramp], axis=1)  # (size, 2): a weight for each end
    corners = rng.uniform(0.25, 0.75, (2, 2, 3))
    image = (blend @ (blend @ corners).reshape(2, -1)).reshape(size, size, 3)
    seg_map = np.zeros((size, size), np.uint8)
    for place in range(clutter + rng.integers(num_digits[0], num_digits[1] + 1)):
        chosen = rng.integers(len(ink))
        drawing, value = ink[chosen], labels[chosen] + 1
        if place < clutter:
            drawing, value = scramble(drawing, rng), 0
        side = rng.uniform(*digit_size)
        y, x = rng.uniform(side / 3, size - side / 3, 2)
        # Each channel is dark or bright: ink differs from every background, and its colour tells no
        # class.
        colour = 0.8 * rng.integers(2, size=3) + rng.uniform(0, 0.2, 3)
        window, drawn = sample_ink(drawing, size, (y, x), side, rng.uniform(-0.35, 0.35))
        cover = np.clip(2 * drawn - 0.5, 0, 1)[..., None]
        image[window] += cover * (colour - image[window])
        seg_map[window][drawn >= INK] = value
    image += noise * rng.standard_normal(image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8), seg_map


@DATASETS.register_module()
class DigitScenes(BaseSegDataset):
    """Scenes of real handwritten digits on clutter: 11 classes, no download.

    The digits are the 1,797 that scikit-learn ships (8×8, from the test part of UCI's *Optical
    Recognition of Handwritten Digits*); splits share none of them, so a test scene shows
    handwriting that was never trained on. A scene is a function of (seed, split, index) alone: the
    same on every machine, whatever ``num_scenes`` is. It is composed when first asked for and kept
    in memory (16 kB at 64×64).

    Class 0 is the background, class d + 1 the digit d; there is no ignored pixel. A sample comes
    with ``img`` (BGR, uint8) and ``gt_seg_map`` already in place, so a pipeline starts where others
    have loaded both, and may be no more than ``[dict(type='PackSegInputs')]``. Do not flip: a
    mirrored digit is no digit.

    Args:
        split: 'train', 'val' or 'test': which digits the scenes show.
        num_scenes: Number of scenes.
        size: Side of the square scenes in pixels.
        seed: Another seed, other scenes.
        num_digits: Fewest and most digits in a scene.
        digit_size: Smallest and largest digit in pixels.
        clutter: Number of scrambled digits beneath the digits: the same strokes, but background.
        noise: Standard deviation of the pixel noise, of the full range.
        **kwargs: As in mmseg's BaseSegDataset: ``pipeline``, ``metainfo``, ``indices``,
            ``test_mode``, ``lazy_init``, ``serialize_data``, ``max_refetch``; those that name files
            are refused.

    Raises:
        ValueError: A number or range that makes no scene; names the argument, what was got and what
            is allowed.
        TypeError: An unknown argument, with the nearest match.

    Examples:
        >>> scenes = DigitScenes(split='val', num_scenes=4)
        >>> len(scenes), scenes[0]['img'].shape, np.unique(scenes[0]['gt_seg_map']).tolist()
        (4, (64, 64, 3), [0, 1, 3, 6, 8, 9])
    """

    METAINFO = dict(
        classes=('background', *map(str, range(10))),
        palette=[
            [0, 0, 0],
            [230, 25, 75],
            [60, 180, 75],
            [255, 225, 25],
            [0, 130, 200],
            [245, 130, 48],
            [145, 30, 180],
            [70, 240, 240],
            [240, 50, 230],
            [210, 245, 60],
            [250, 190, 212],
        ],
    )

    def __init__(
        self,
        split: str = 'train',
        num_scenes: int = 1000,
        size: int = 64,
        seed: int = 0,
        num_digits: tuple[int, int] = (5, 8),
        digit_size: tuple[float, float] = (14, 24),
        clutter: int = 2,
        noise: float = 0.06,
        **kwargs: Any,
    ) -> None:
        check_arguments(kwargs, OWN, 'DigitScenes')
        check_choice('split', split, SPLITS)
        check_count('num_scenes', num_scenes, 1)
        check_count('size', size, 16)
        check_count('seed', seed, 0)
        check_count('clutter', clutter, 0)
        _check_range('num_digits', num_digits, 1, 100)
        _check_range('digit_size', digit_size, 8, size)
        check_share('noise', noise)
        self.split, self.num_scenes, self.seed = split, num_scenes, seed
        self.options: dict[str, Any] = dict(
            size=size, num_digits=num_digits, digit_size=digit_size, clutter=clutter, noise=noise
        )
        self._scenes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return an entry a scene; ``img_path`` is a name for results, not a file."""
        return [
            dict(
                scene=index,
                img_path=f'{self.split}_{self.seed}_{index:05d}.png',
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=['gt_seg_map'],
            )
            for index in range(self.num_scenes)
        ]

    def scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and label map of a scene, from memory if it was composed before."""
        if index not in self._scenes:
            rng = np.random.default_rng((self.seed, list(SPLITS).index(self.split), index))
            self._scenes[index] = compose_scene(*split_digits(self.split), rng, **self.options)
        return self._scenes[index]

    def get_data_info(self, idx: int) -> dict:
        """Return the entry with copies of image and label map: transforms may write into them."""
        info = super().get_data_info(idx)
        image, seg_map = self.scene(info['scene'])
        if self.label_map is not None:
            seg_map = np.array([self.label_map[label] for label in range(11)], np.uint8)[seg_map]
        return dict(
            info,
            img=image.copy(),
            gt_seg_map=seg_map.copy(),
            img_shape=image.shape[:2],
            ori_shape=image.shape[:2],
        )


def _check_range(name: str, value: Any, least: float, most: float) -> None:
    number = int if name == 'num_digits' else int | float
    if (
        not isinstance(value, tuple | list)
        or len(value) != 2
        or not all(isinstance(v, number) for v in value)
        or not least <= value[0] <= value[1] <= most
    ):
        raise ValueError(
            f'{name} must be (smallest, largest) with {least} <= smallest <= largest <= '
            f'{most}{" (whole numbers)" if number is int else ""}, got {value!r}'
        )
