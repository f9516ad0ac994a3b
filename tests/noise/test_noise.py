"""Noises alone: their statistics within three sigma, what they leave as it is, what they refuse."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.registry import MODELS
from scipy import ndimage, stats
from torch import Tensor, nn

from mmkd.noise import GaussianInput, LabelFlip, TargetNoise, TeacherDropout
from mmkd.noise.label_flip import label_regions


def seeded(function: Callable[[], Any], seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return function()


# ---------------------------------------------------------------------- GaussianInput, TargetNoise


def test_gaussian_input_is_white_noise_of_the_given_std() -> None:
    images = torch.rand(8, 3, 64, 64, dtype=torch.float64)
    delta = GaussianInput(std=0.2)(images) - images
    n = delta.numel()
    assert abs(delta.mean()) < 3 * 0.2 / math.sqrt(n)
    assert abs(delta.std() - 0.2) < 3 * 0.2 / math.sqrt(2 * n)
    assert stats.kstest(delta.flatten().numpy() / 0.2, 'norm').pvalue > 0.001
    for a, b in (
        (delta[:, 0], delta[:, 1]),
        (delta[:4], delta[4:]),
        (delta[..., 1:], delta[..., :-1]),
        (delta, images),
    ):  # channels, images, neighbours, the image itself: independent
        r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(r) < 3 / math.sqrt(a.numel())
    assert (images + delta).min() < 0  # not clipped


def test_gaussian_input_is_seeded_fresh_and_linear_in_std() -> None:
    images = torch.rand(2, 3, 8, 8)
    one, again = (seeded(lambda: GaussianInput(0.1)(images)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(GaussianInput(0.1)(images), one)
    assert torch.allclose(
        seeded(lambda: GaussianInput(0.3)(images)) - images, 3 * (one - images), atol=1e-6
    )
    assert torch.equal(GaussianInput(0.0)(images), images)


def test_target_noise_is_relative_to_the_value() -> None:
    values = torch.randn(100, 50, dtype=torch.float64) + torch.tensor([0.0, 100.0]).repeat(25)
    ratio = TargetNoise(std=0.1)(values) / values - 1
    assert abs(ratio.mean()) < 3 * 0.1 / math.sqrt(5000)
    assert abs(ratio.std() - 0.1) < 3 * 0.1 / math.sqrt(2 * 5000)
    assert torch.equal(TargetNoise(0.5)(torch.zeros(3)), torch.zeros(3))
    assert torch.equal(TargetNoise(0.0)(values), values)


# ---------------------------------------------------------------------- LabelFlip


def check_flips(clean: Tensor, noisy: Tensor, rate: float, classes: int) -> None:
    """The share of flips within three sigma; the other classes equally likely."""
    flipped = noisy != clean
    assert abs(flipped.double().mean() - rate) < 3 * math.sqrt(rate * (1 - rate) / clean.numel())
    steps = ((noisy - clean) % classes)[flipped]
    counts = torch.bincount(steps, minlength=classes)
    assert counts[0] == 0
    assert classes == 2 or stats.chisquare(counts[1:].numpy()).pvalue > 0.001


@pytest.mark.parametrize('fresh', [False, True])
@pytest.mark.parametrize(
    ('shape', 'classes', 'rate'), [((20000,), 10, 0.1), ((4, 80, 80), 19, 0.3), ((20000,), 2, 0.02)]
)
def test_flips_are_uniform_over_the_other_classes(
    shape: tuple, classes: int, rate: float, fresh: bool
) -> None:
    clean = torch.randint(0, classes, shape)
    kept = clean.clone()
    noisy = LabelFlip(rate=rate, num_classes=classes, fresh=fresh)(clean)
    check_flips(clean, noisy, rate, classes)
    assert torch.equal(clean, kept)
    assert noisy.dtype == clean.dtype
    for label in range(classes):  # each class is corrupted alike
        own = clean == label
        assert abs((noisy != clean)[own].double().mean() - rate) < 4 * math.sqrt(
            rate * (1 - rate) / own.sum()
        )


@pytest.mark.parametrize('per', ['pixel', 'region', 'image'])
@pytest.mark.parametrize('fresh', [False, True])
def test_ignored_and_foreign_labels_stay(per: str, fresh: bool) -> None:
    clean = torch.randint(0, 5, (3, 16, 16))
    clean[:, :4], clean[:, 4:6], clean[:, 6] = 255, 7, -1
    flip = LabelFlip(rate=0.99, num_classes=5, per=per, fresh=fresh)
    noisy = flip(clean)
    assert torch.equal(noisy[:, :7], clean[:, :7])
    assert (noisy[:, 7:] != clean[:, 7:]).double().mean() > 0.5
    assert ((noisy[:, 7:] >= 0) & (noisy[:, 7:] < 5)).all()
    assert not (flip(clean, ignore_index=3) != clean)[clean == 3].any()
    single = torch.tensor([0, 255, -100, 3])
    assert LabelFlip(rate=0.99, num_classes=300, fresh=True)(single)[2] == -100


def test_fixed_flips_follow_the_name_and_the_seed_alone() -> None:
    labels, names = torch.arange(500) % 10, [f'img/{i}.png' for i in range(500)]
    flip = LabelFlip(rate=0.4, num_classes=10)
    first = flip(labels, names)
    torch.manual_seed(99)
    order = torch.randperm(500)
    again = LabelFlip(rate=0.4, num_classes=10)(labels[order], [names[i] for i in order])
    assert torch.equal(again, first[order])
    assert not torch.equal(LabelFlip(rate=0.4, num_classes=10, seed=1)(labels, names), first)
    state = torch.get_rng_state()
    flip(labels, names)
    assert torch.equal(torch.get_rng_state(), state)
    # a higher rate keeps the images that a lower one corrupts: a grid of rates is nested
    assert (
        (flip(labels, names) != labels)
        <= (LabelFlip(rate=0.6, num_classes=10)(labels, names) != labels)
    ).all()
    fresh = LabelFlip(rate=0.4, num_classes=10, fresh=True)
    assert not torch.equal(fresh(labels), fresh(labels))
    assert torch.equal(seeded(lambda: fresh(labels)), seeded(lambda: fresh(labels)))


@pytest.mark.parametrize('fresh', [False, True])
def test_per_image_maps_every_class_of_an_image_to_one(fresh: bool) -> None:
    clean = torch.randint(0, 6, (400, 8, 8))
    noisy = LabelFlip(rate=0.3, num_classes=6, per='image', fresh=fresh)(clean)
    flips = 0
    for image, own in zip(clean, noisy, strict=True):
        for label in image.unique():
            assert len(found := own[image == label].unique()) == 1
            flips += int(found != label)
    assert abs(flips / 2400 - 0.3) < 4 * math.sqrt(0.21 / 2400)
    if not fresh:  # whatever crop of an image is seen, an object has the same wrong label
        flip = LabelFlip(rate=0.3, num_classes=6, per='image')
        assert torch.equal(flip(clean[:, 2:6, 3:].flip(2)), noisy[:, 2:6, 3:].flip(2))


def test_per_region_flips_connected_pixels_together() -> None:
    clean = torch.randint(0, 3, (200, 4, 4)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    noisy = LabelFlip(rate=0.3, num_classes=3, per='region', fresh=True)(clean)
    flips, total = 0, 0
    for image, own in zip(clean.numpy(), noisy.numpy(), strict=True):
        for label in range(3):
            regions, count = ndimage.label(image == label)
            for region in range(1, count + 1):
                assert len(found := np.unique(own[regions == region])) == 1
                flips, total = flips + int(found[0] != label), total + 1
    assert abs(flips / total - 0.3) < 3 * math.sqrt(0.21 / total)


def test_regions_of_a_map_do_not_depend_on_the_batch() -> None:
    """Fixed noise of an image is the same whatever it is batched with."""
    maps = [torch.zeros(1, 8, 8, dtype=torch.long), torch.randint(0, 4, (1, 8, 8))]
    flip = LabelFlip(rate=0.5, num_classes=4, per='region')
    together = flip(torch.cat(maps), ['a', 'b'])
    assert torch.equal(
        together, torch.cat([flip(map_, [name]) for map_, name in zip(maps, 'ab', strict=True)])
    )


@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (7, 1), (13, 17)])
def test_label_regions_equal_scipy_class_by_class(shape: tuple) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape)
    got = label_regions(labels)
    total = 0
    for label in range(3):
        regions, count = ndimage.label(labels == label)
        total += count
        for region in range(1, count + 1):
            own = got[regions == region]
            assert (own == own[0]).all()
            assert (got == own[0]).sum() == len(own)
    assert sorted(np.unique(got)) == list(range(total))


# ---------------------------------------------------------------------- TeacherDropout


class Block(nn.Module):
    """Every kind of dropout, BatchNorm, and a train() that does more than set a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drops = nn.Sequential(
            nn.Dropout2d(0.5), nn.Dropout(0.2), DropPath(0.3), nn.Dropout(0.0)
        )
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.drops(self.norm(self.conv(x)))


def test_only_dropout_wakes_and_all_is_as_before_afterwards() -> None:
    model = Block().eval()
    model.drops[1].train()  # an odd mode to come back to
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 8, 8)
    with TeacherDropout()(model):
        awake = {name for name, module in model.named_modules() if module.training}
        first, second = model(x), model(x)
    assert awake == {'drops.0', 'drops.1', 'drops.2'}
    assert not torch.equal(first, second)  # a mask of its own each time
    assert not first.requires_grad
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyError), TeacherDropout()(model):
        raise KeyError
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_batch_norm_sleeps_even_in_a_model_that_was_training() -> None:
    model = Block().train()
    with TeacherDropout()(model):
        assert not model.norm.training
        model(torch.randn(4, 3, 8, 8) + 5)
    assert model.norm.num_batches_tracked == 0
    assert all(module.training for module in model.modules())


def test_masks_have_the_rate_and_the_mean_of_dropout() -> None:
    model = nn.Sequential(nn.Dropout(0.4)).eval()
    with TeacherDropout()(model):
        out = model(torch.ones(100000))
    assert abs((out == 0).double().mean() - 0.4) < 3 * math.sqrt(0.24 / 1e5)
    assert torch.allclose(out[out > 0], torch.tensor(1 / 0.6))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('make', 'error', 'pattern'),
    [
        (
            lambda: GaussianInput(std=-0.1),
            ValueError,
            'std of GaussianInput must be a finite number, 0 or above, got -0.1',
        ),
        (
            lambda: GaussianInput(std=float('nan')),
            ValueError,
            'std of GaussianInput must be a finite number',
        ),
        (
            lambda: TargetNoise(std=-1),
            ValueError,
            'std of TargetNoise must be a finite number, 0 or above, got -1',
        ),
        (
            lambda: TargetNoise(std=1, taps='logits'),
            TypeError,
            r"taps of TargetNoise must be a list of names such as \['logits'\]",
        ),
        (
            lambda: LabelFlip(rate=1.0),
            ValueError,
            'rate of LabelFlip must be a number from 0 to below 1, got 1.0',
        ),
        (
            lambda: LabelFlip(rate=-0.1),
            ValueError,
            'rate of LabelFlip must be a number from 0 to below 1, got -0.1',
        ),
        (
            lambda: LabelFlip(rate=0.1, per='pixels'),
            ValueError,
            "per must be one of .* did you mean 'pixel'",
        ),
        (
            lambda: LabelFlip(rate=0.1, num_classes=1),
            ValueError,
            'num_classes of LabelFlip must be .* at least 2, got 1',
        ),
        (
            lambda: LabelFlip(rate=0.1, seed=-1),
            ValueError,
            'seed of LabelFlip must be a whole number of at least 0',
        ),
        (
            lambda: LabelFlip(rate=0.1)(torch.tensor([1])),
            ValueError,
            'does not know how many classes .* Mend: num_classes',
        ),
        (
            lambda: LabelFlip(rate=0.1, num_classes=3)(torch.zeros(2, 2)),
            ValueError,
            r'labels \(N,\) or \(N, H, W\), got \(2, 2\)',
        ),
        (
            lambda: GaussianInput(0.1)(torch.zeros(1, 5, dtype=torch.long)),
            TypeError,
            r'got int64 \(1, 5\)..*a text has no',
        ),
        (
            lambda: GaussianInput(0.1, members='student'),
            TypeError,
            r"must be a list of names such as \['student'\]",
        ),
        (
            lambda: TeacherDropout()(nn.Linear(2, 2)),
            ValueError,
            'Linear has no dropout module, so it cannot be fickle',
        ),
        (
            lambda: TeacherDropout()(nn.Sequential(nn.Dropout(0.0))),
            ValueError,
            '1 dropout modules, all of rate 0.*Mend: a teacher that was trained with dropout',
        ),
    ],
)
def test_refusals(make: Callable[[], Any], error: type[Exception], pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        make()


@pytest.mark.parametrize(
    'config',
    [
        dict(type='GaussianInput', std=0.1),
        dict(type='LabelFlip', rate=0.1),
        dict(type='TeacherDropout'),
        dict(type='TargetNoise', std=0.1),
    ],
)
def test_every_noise_is_registered(config: dict) -> None:
    assert (
        type(MODELS.build(config | dict(type=f'mmkd.{config["type"]}'))).__name__ == config['type']
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Images stay in their dtype; what a bf16 teacher says is disturbed in float32, where small
    noise survives.
    """
    noisy = GaussianInput(0.1)(torch.full((64, 3, 32, 32), 0.5, dtype=dtype))
    assert noisy.dtype == dtype
    assert (noisy.float() - 0.5).std().item() == pytest.approx(0.1, rel=0.02)
    said = TargetNoise(0.001)(torch.full((1000, 100), 3.0, dtype=dtype))
    assert said.dtype == torch.float32
    assert (said / 3 - 1).std().item() == pytest.approx(0.001, rel=3 / 200_000**0.5)
    assert TargetNoise(0.001)(torch.ones(2, 2, dtype=torch.float64)).dtype == torch.float64
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8)).to(dtype).eval()
    with TeacherDropout()(model):
        assert model(torch.ones(4, 8, dtype=dtype)).isfinite().all()


def test_labels_and_names_that_do_not_fit() -> None:
    flip = LabelFlip(rate=0.5, num_classes=3)
    with pytest.raises(ValueError, match='needs a name for each image, got 1 for 4 labels'):
        flip(torch.tensor([0, 1, 2, 0]), names=['a'])
    with pytest.raises(
        TypeError, match=r'needs whole numbers as labels, got torch.float32. Mend: labels.long\(\)'
    ):
        flip(torch.rand(4))
