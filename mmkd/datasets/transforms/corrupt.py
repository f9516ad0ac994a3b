"""Common corruptions of images, as strong as in CIFAR-10-C."""

from collections.abc import Callable

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmkd.registry import TRANSFORMS
from mmkd.utils.checks import check_choice, check_count
from mmkd.utils.seeds import image_name, name_seed

Image = np.ndarray  # (H, W, 3), float32, BGR in [0, 1]


def gaussian_noise(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add noise of the standard deviation ``strength``."""
    return x + strength * rng.standard_normal(x.shape, np.float32)


def shot_noise(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Count photons: Poisson with a mean of ``strength`` at white."""
    return rng.poisson(x * strength) / strength


def impulse_noise(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Set the share ``strength`` of all values to 0 or 1, half each."""
    draw = rng.random(x.shape, np.float32)
    return np.where(draw < strength, draw < strength / 2, x)


def gaussian_blur(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Blur by a Gaussian, its standard deviation ``strength`` pixels; the border is repeated."""
    return cv2.GaussianBlur(x, (0, 0), strength, borderType=cv2.BORDER_REPLICATE)


def zoom_blur(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Average over zooms around the centre, from 1 to below 1 + ``strength`` in steps of 0.01."""
    height, width = x.shape[:2]
    zooms = [1 + 0.01 * step for step in range(round(100 * strength))]
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrices = [cv2.getRotationMatrix2D(centre, 0, zoom) for zoom in zooms]
    return np.mean(
        [x] + [cv2.warpAffine(x, matrix, (width, height)) for matrix in matrices], axis=0
    )


def brightness(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Raise the value of every pixel, its hue and saturation kept."""
    hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)
    hsv[..., 2] = (hsv[..., 2] + strength).clip(0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def contrast(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Shrink the distance of every value from its channel's mean to the part ``strength``."""
    mean = x.mean((0, 1))
    return mean + strength * (x - mean)


def pixelate(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Shrink to the part ``strength`` of its size, then repeat pixels."""
    height, width = x.shape[:2]
    small = cv2.resize(
        x,
        (max(1, int(width * strength)), max(1, int(height * strength))),
        interpolation=cv2.INTER_AREA,
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def jpeg_compression(x: Image, strength: float, rng: np.random.Generator) -> Image:
    """Save as JPEG of the quality ``strength`` and load again."""
    _, file = cv2.imencode(
        '.jpg', np.rint(255 * x).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(strength)]
    )
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.float32) / 255


# How strong severities 1 to 5 are, as in CIFAR-10-C.
CORRUPTIONS: dict[
    str, tuple[Callable[[Image, float, np.random.Generator], Image], tuple[float, ...]]
] = dict(
    gaussian_noise=(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    shot_noise=(shot_noise, (500, 250, 100, 75, 50)),
    impulse_noise=(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    gaussian_blur=(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    zoom_blur=(zoom_blur, (0.06, 0.11, 0.16, 0.21, 0.26)),
    brightness=(brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    contrast=(contrast, (0.75, 0.50, 0.40, 0.30, 0.15)),
    pixelate=(pixelate, (0.95, 0.90, 0.85, 0.75, 0.65)),
    jpeg_compression=(jpeg_compression, (80, 65, 58, 50, 40)),
)


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Corrupt ``img`` as the weather, a sensor or a codec would; for tests.

    Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations, ICLR 2019. The nine corruptions of CIFAR-10-C that need neither pictures of frost
    nor ImageMagick, with its strengths, which were chosen for 32×32 images. Arguments are named as
    in mmdet's transform of this name. Noise is a function of ``seed`` and the image's name, so that
    every model is tested on the same images.

    Args:
        corruption: One of 'gaussian_noise', 'shot_noise', 'impulse_noise', 'gaussian_blur',
            'zoom_blur', 'brightness', 'contrast', 'pixelate', 'jpeg_compression'.
        severity: 1 to 5.
        seed: Of the noise.

    Raises:
        ValueError: An unknown corruption or severity; an image that is not (H, W, 3) of uint8.

    >>> image = np.array([[[0, 100, 200]], [[100, 100, 100]]], np.uint8)  # means: 50, 100, 150
    >>> half = Corrupt('contrast', severity=2)(dict(img=image, img_path='a.png'))
    >>> half['img'].tolist()
    [[[25, 100, 175]], [[75, 100, 125]]]
    """

    def __init__(self, corruption: str, severity: int = 1, seed: int = 0) -> None:
        check_choice('corruption', corruption, CORRUPTIONS)
        check_choice('severity', severity, (1, 2, 3, 4, 5))
        check_count('seed of Corrupt', seed, 0)
        self.corruption, self.severity, self.seed = corruption, severity, seed

    def transform(self, results: dict) -> dict:
        """Replace ``img``."""
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f'Corrupt needs an image (H, W, 3) of uint8, got {image.dtype} {image.shape}. '
                'Mend: put it before transforms that normalise'
            )
        corrupt, strengths = CORRUPTIONS[self.corruption]
        rng = np.random.default_rng(
            name_seed(self.seed, f'{self.corruption}/{image_name(results, "Corrupt")}')
        )
        x = corrupt(image.astype(np.float32) / 255, strengths[self.severity - 1], rng)
        results['img'] = np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
        return results
