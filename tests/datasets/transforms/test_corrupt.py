"""Corrupt: every corruption by value against numpy, SciPy or Pillow, statistics of the noises,
seeds, messages.
"""

import io

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image
from scipy import ndimage

from mmkd.datasets.transforms.corrupt import CORRUPTIONS, Corrupt


def scene(size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    """Return a smooth picture in colours, uint8 BGR."""
    noise = np.random.default_rng(seed).random((*size, 3))
    smooth = ndimage.gaussian_filter(noise, (2, 2, 0))
    return np.rint(255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())).astype(np.uint8)


def corrupted(
    name: str, severity: int, image: np.ndarray, path: str = 'train/cat/1.png', **options: int
) -> np.ndarray:
    """Return the image after the transform; the one given must stay as it is."""
    before = image.copy()
    result = Corrupt(name, severity, **options)(dict(img=image, img_path=path))['img']
    assert np.array_equal(image, before)
    assert (result.dtype, result.shape) == (np.uint8, image.shape)
    return result


@pytest.mark.parametrize('severity', range(1, 6))
def test_gaussian_noise_has_the_strength_of_cifar_10_c(severity: int) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = corrupted('gaussian_noise', severity, grey) / 255 - 128 / 255
    std = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    assert noise.std() == pytest.approx(
        std, rel=0.02
    )  # 120,000 values: 3 sigma are 0.6 %, and rounding adds
    assert abs(noise.mean()) < 3 * std / 120_000**0.5 + 0.001


@pytest.mark.parametrize('severity', range(1, 6))
def test_shot_noise_is_poisson(severity: int) -> None:
    photons = (500, 250, 100, 75, 50)[severity - 1]
    grey = np.full((200, 200, 3), 102, np.uint8)  # 0.4
    noisy = corrupted('shot_noise', severity, grey) / 255
    assert noisy.mean() == pytest.approx(0.4, abs=0.003)
    assert noisy.var() == pytest.approx(0.4 / photons, rel=0.05), (
        'the variance of a count is its mean'
    )


@pytest.mark.parametrize('severity', range(1, 6))
def test_impulse_noise_is_half_black_and_half_white(severity: int) -> None:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    grey = np.full((200, 200, 3), 100, np.uint8)
    noisy = corrupted('impulse_noise', severity, grey, 'train/cat/2.png')
    sigma = (share / 2 / 120_000) ** 0.5
    for value in (0, 255):
        assert (noisy == value).mean() == pytest.approx(share / 2, abs=3 * sigma)
    assert set(np.unique(noisy)) == {0, 100, 255}


@pytest.mark.parametrize('severity', range(1, 6))
def test_gaussian_blur_is_scipys(severity: int) -> None:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    image = scene()
    slow = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode='nearest', truncate=4)
    assert np.abs(corrupted('gaussian_blur', severity, image) / 255 - slow).max() < 2 / 255


def test_zoom_blur_leaves_the_centre_and_averages_over_zooms() -> None:
    """A picture linear in x is the mean of 1/zoom times as steep around its centre."""
    ramp = (
        np.repeat(np.linspace(0, 255, 33)[None], 33, 0)
        .round()
        .astype(np.uint8)[..., None]
        .repeat(3, 2)
    )
    blurred = corrupted('zoom_blur', 5, ramp).astype(float)
    assert np.abs(blurred[16, 16] - ramp[16, 16]).max() <= 1
    slopes = [
        1.0,
        *(1 / (1 + 0.01 * step) for step in range(26)),
    ]  # the image itself is one more, as in the source
    expected = (ramp - 127.5) * np.mean(slopes) + 127.5
    assert np.abs(blurred - expected)[2:-2, 2:-2].max() <= 1


def test_brightness_raises_the_largest_channel_and_keeps_the_ratios() -> None:
    image = np.array([[[40, 80, 160]]], np.uint8)
    value = corrupted('brightness', 2, image)[0, 0]
    scale = (160 / 255 + 0.1) / (160 / 255)
    assert value == pytest.approx([40 * scale, 80 * scale, 160 * scale], abs=1)
    assert corrupted('brightness', 5, np.zeros((1, 1, 3), np.uint8))[0, 0] == pytest.approx(
        [0.3 * 255] * 3, abs=1
    )


@pytest.mark.parametrize(('severity', 'part'), enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1))
def test_contrast_shrinks_the_spread_and_keeps_the_mean(severity: int, part: float) -> None:
    image = scene()
    result = corrupted('contrast', severity, image).astype(float)
    means = image.mean((0, 1))
    assert np.abs(result - (means + part * (image - means))).max() <= 0.5 + 1e-4


def test_pixelate_repeats_the_means_of_areas() -> None:
    """At 0.75 of 4×4 pixels a 3×3 grid is left, whose corners hold 9/16 of a pixel, and parts of
    three more.
    """
    image = scene((4, 4))
    result = corrupted('pixelate', 4, image)
    x = image.astype(float)
    corner = (x[0, 0] + x[0, 1] / 3 + x[1, 0] / 3 + x[1, 1] / 9) / (16 / 9)
    assert result[0, 0] == pytest.approx(corner, abs=1)
    assert len(np.unique(result[..., 0])) <= 9


@pytest.mark.parametrize(('severity', 'quality'), enumerate((80, 65, 58, 50, 40), 1))
def test_jpeg_is_pillows_of_that_quality(severity: int, quality: int) -> None:
    image = scene()
    file = io.BytesIO()
    Image.fromarray(image[..., ::-1]).save(file, 'JPEG', quality=quality)
    pillow = np.asarray(Image.open(file))[..., ::-1].astype(float)
    assert np.abs(corrupted('jpeg_compression', severity, image) - pillow).mean() < 1


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_stronger_means_further_away(name: str) -> None:
    """On a frame that is no square, too."""
    image = cv2.resize(scene((40, 24), 1), (48, 40))
    distances = [
        np.abs(corrupted(name, severity, image).astype(float) - image).mean()
        for severity in range(1, 6)
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


@pytest.mark.parametrize('name', ['gaussian_noise', 'shot_noise', 'impulse_noise'])
def test_noise_follows_seed_and_name_alone(name: str) -> None:
    image = scene()
    one = corrupted(name, 3, image, '/here/train/cat/1.png')
    np.random.seed(7)
    assert np.array_equal(one, corrupted(name, 3, image, 'C:\\there\\train\\cat\\1.png'))
    assert not np.array_equal(one, corrupted(name, 3, image, '/here/train/cat/2.png'))
    assert not np.array_equal(one, corrupted(name, 3, image, '/here/train/cat/1.png', seed=1))


def test_built_from_a_pipeline_of_any_scope() -> None:
    transform = TRANSFORMS.build(dict(type='mmkd.Corrupt', corruption='contrast', severity=5))
    assert (transform.corruption, transform.severity) == ('contrast', 5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(corruption='gausian_noise'),
            r"corruption must be one of .*'gaussian_noise'.* got 'gausian_noise'",
        ),
        (dict(corruption='contrast', severity=6), r'severity must be one of .*5.* got 6'),
        (dict(corruption='contrast', severity=0), r'severity must be one of .*5.* got 0'),
        (dict(corruption='contrast', seed=-1), r'seed of Corrupt must be .*0.* got -1'),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corrupt(**options)


def test_bad_images() -> None:
    corrupt = Corrupt('contrast')
    with pytest.raises(
        ValueError,
        match=r'needs an image \(H, W, 3\) of uint8, got float32 \(4, 4, 3\). Mend: put it '
        'before',
    ):
        corrupt(dict(img=np.zeros((4, 4, 3), np.float32), img_path='a.png'))
    with pytest.raises(ValueError, match=r'got uint8 \(4, 4\)'):
        corrupt(dict(img=np.zeros((4, 4), np.uint8), img_path='a.png'))
    with pytest.raises(
        ValueError, match='Corrupt gives an image the same noise always, but this one has neither'
    ):
        corrupt(dict(img=np.zeros((4, 4, 3), np.uint8)))
