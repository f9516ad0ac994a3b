"""DepthHead by value: bins, regression, unknown depth, units; and depth as pipelines and pictures
handle it.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.runs import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, VISUALIZERS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.models.decode_heads.depth_head import DepthHead, LogDepth


def head(**changes: Any) -> DepthHead:
    return DepthHead(
        **dict(
            min_depth=1.0,
            max_depth=16.0,
            num_bins=4,
            in_channels=3,
            channels=3,
            num_convs=0,
            dropout_ratio=0.0,
        )
        | changes
    )


def samples(*maps: Tensor) -> list[SegDataSample]:
    made = [SegDataSample(gt_depth_map=PixelData(data=depth[None])) for depth in maps]
    for number, sample in enumerate(made):
        sample.set_metainfo(dict(depth_map_path=f'{number}.png'))
    return made


def silog(pred: Tensor, true: Tensor) -> float:
    """The scale-invariant loss of one image, over its known pixels."""
    errors = [
        math.log(t) - math.log(p)
        for p, t in zip(pred.flatten().tolist(), true.flatten().tolist(), strict=True)
        if t > 0
    ]
    return math.sqrt(
        sum(e * e for e in errors) / len(errors) - 0.5 * (sum(errors) / len(errors)) ** 2
    )


# ---- metres from logits ----


def test_centres_are_log_spaced_and_the_sum_is_soft() -> None:
    """Four bins over 1 … 16 have centres √2, 2√2, 4√2, 8√2; probabilities .5 and .5 give the
    geometric mean.
    """
    depth = LogDepth(4, 1.0, 16.0)
    logits = torch.full((1, 4, 1, 5), -100.0)
    for place in range(4):
        logits[0, place, 0, place] = 100.0
    logits[0, [0, 3], 0, 4] = 50.0
    expected = torch.tensor([1.0, 2.0, 4.0, 8.0, math.sqrt(8.0)]) * math.sqrt(2)
    torch.testing.assert_close(depth(logits).flatten(), expected)


def test_one_channel_is_direct_regression() -> None:
    x = torch.tensor([-100.0, 0.0, 100.0, math.log(3)]).view(1, 1, 1, 4)
    torch.testing.assert_close(
        LogDepth(1, 1.0, 16.0)(x).flatten(), torch.tensor([1.0, 4.0, 16.0, 8.0])
    )


@pytest.mark.parametrize('bins', [1, 5])
def test_gradcheck(bins: int) -> None:
    logits = torch.randn(2, bins, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LogDepth(bins, 0.5, 10.0), logits)


def test_half_precision_gives_metres_in_float32() -> None:
    assert (
        LogDepth(4, 1.0, 16.0)(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    )


def test_the_centres_of_a_teacher_in_bfloat16_are_exact() -> None:
    logits = torch.randn(1, 150, 3, 4)
    exact = LogDepth(150, 0.1, 10.0)(logits)
    assert torch.equal(LogDepth(150, 0.1, 10.0).to(torch.bfloat16)(logits), exact)


# ---- the loss ----


def test_the_loss_is_that_of_the_equation_over_known_pixels() -> None:
    module, features = head(), torch.randn(2, 3, 4, 6)
    true = torch.rand(2, 8, 12) * 10 + 2
    true[:, :3] = 0
    true[0, 4, 4], true[1, 5, 5], true[0, 6] = (
        float('nan'),
        float('inf'),
        255.0,
    )  # 255: mmseg pads maps with it
    pred = torch.nn.functional.interpolate(module([features]), size=(8, 12), mode='bilinear')[:, 0]
    known = true.where((true >= 1) & (true <= 16), 0)
    expected = sum(silog(p.detach(), t) for p, t in zip(pred, known, strict=True)) / 2
    losses = module.loss([features], samples(*true), None)
    assert list(losses) == ['loss_silog']
    assert losses['loss_silog'].item() == pytest.approx(expected, rel=1e-4)


def test_an_image_without_known_depth_is_left_out_with_zero_gradient() -> None:
    module, features = head(), torch.randn(2, 3, 4, 4, requires_grad=True)
    true = torch.rand(2, 4, 4) * 10 + 2
    true[1] = 0
    loss = module.loss([features], samples(*true), None)['loss_silog']
    torch.testing.assert_close(
        loss, module.loss([features[:1]], samples(true[0]), None)['loss_silog']
    )
    (gradient,) = torch.autograd.grad(loss, features)
    assert (gradient[1] == 0).all()
    assert torch.isfinite(gradient).all()


def test_several_losses_and_their_weights() -> None:
    plain, features = head(), torch.randn(1, 3, 4, 4)
    true = torch.rand(1, 4, 4) * 10 + 2
    two = head(loss_decode=[dict(type='SiLogLoss'), dict(type='SiLogLoss', loss_weight=2.0)])
    two.load_state_dict(plain.state_dict())
    one = plain.loss([features], samples(*true), None)['loss_silog']
    torch.testing.assert_close(two.loss([features], samples(*true), None)['loss_silog'], 3 * one)


# ---- refusals ----


def test_depth_in_another_unit() -> None:
    metres = torch.rand(2, 4, 4) * 10 + 2
    with pytest.raises(
        ValueError,
        match=r'outside 1.0 … 16.0 m: median \d{4} \(from 0.png, 1.png\)'
        r'.*depth_rescale_factor=….*0.001 for files in millimetres',
    ):
        head().loss([torch.randn(2, 3, 4, 4)], samples(*(metres * 1000).round()), None)
    maps = torch.cat([torch.zeros(1, 4, 4), (metres[:1] * 1000).round()])  # one of an unknown depth
    with pytest.raises(ValueError, match=r'outside 1.0 … 16.0 m: median \d{4} \(from 1.png\)'):
        head().loss([torch.randn(2, 3, 4, 4)], samples(*maps), None)


def test_once_the_unit_is_right_a_batch_may_lie_far_away() -> None:
    module, features = head(), torch.randn(2, 3, 4, 4, requires_grad=True)
    far = samples(*torch.full((2, 4, 4), 40.0))
    with pytest.raises(ValueError, match='outside 1.0 … 16.0 m: median 40'):
        module.loss([features], far, None)
    module.loss([features], samples(*torch.full((2, 4, 4), 8.0)), None)
    assert all(float(value) == 0.0 for value in module.loss([features], far, None).values())


def test_much_sky_is_no_other_unit_and_maps_have_one_size() -> None:
    true = torch.rand(2, 4, 5) * 10 + 2
    true[:, :3] = 655.35
    known = true.where(true < 16, torch.zeros(()))
    module, features = head(), torch.randn(2, 3, 4, 5)
    got, expected = (module.loss([features], samples(*maps), None) for maps in (true, known))
    torch.testing.assert_close(got, expected)
    coloured = samples(true[0], true[1])
    coloured[0].gt_depth_map, coloured[1].gt_depth_map = (
        PixelData(data=torch.ones(3, 4, 5)) for _ in range(2)
    )
    mixed = samples(true[0], true[1])
    mixed[1].gt_depth_map = coloured[1].gt_depth_map
    for wrong, files in (
        (samples(true[0], true[1, :3]), '0.png, 1.png'),
        (coloured, '0.png, 1.png'),
        (mixed, '1.png'),
    ):
        with pytest.raises(
            ValueError,
            match=r'must be \(1, H, W\) of one size, got \[.*\(from '
            + files
            + r'\). Mend: depth files',
        ):
            module.loss([features], wrong, None)


def test_nothing_known_and_nothing_given() -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = head().loss([features], samples(*torch.zeros(2, 4, 4)), None)['loss_silog']
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss == 0
    assert (gradient == 0).all()
    given = [*samples(torch.ones(4, 4)), SegDataSample(metainfo=dict(depth_map_path='b.png'))]
    with pytest.raises(
        ValueError,
        match=r'hold no gt_depth_map \(from b.png\). Mend: LoadDepthAnnotation in the '
        'training pipeline',
    ):
        head().loss([torch.randn(1, 3, 4, 4)], given, None)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(min_depth=0.0), 'min_depth must be a finite number above 0, got 0.0'),
        (dict(max_depth=float('inf')), 'max_depth must be a finite number above 0, got inf'),
        (dict(max_depth='10'), "max_depth must be a finite number above 0, got '10'"),
        (dict(max_depth=0.5), r'max_depth must be above min_depth=1.0, got 0.5; both are metres'),
        (dict(num_bins=0), 'num_bins must be a whole number of at least 1, got 0'),
        (dict(num_convs=-1), 'num_convs must be a whole number of at least 0, got -1'),
        (dict(channels=8), 'num_convs=0 needs channels == in_channels, got 8 and 3'),
    ],
)
def test_arguments_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**changes)


def test_building_warns_of_nothing() -> None:
    """mmseg's heads of one or two channels warn of thresholds for binary segmentation."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        head(num_bins=1)


# ---- data ----


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes of 320×240 whose blue channel is their depth in units of 1/25.5 m, in blocks of
    16 pixels.
    """
    for part in ('img_dir/train', 'depth_dir/train'):
        (tmp_path / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        depth = rng.integers(20, 250, (15, 20), np.uint8).repeat(16, 0).repeat(16, 1)
        cv2.imwrite(str(tmp_path / f'img_dir/train/{number}.png'), np.stack([depth] * 3, -1))
        cv2.imwrite(str(tmp_path / f'depth_dir/train/{number}.png'), depth)
    return tmp_path


def test_flip_and_resize_keep_image_and_depth_together(scenes: Path) -> None:
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/nyuv2_160x120.py')
    pipeline = [step for step in cfg.train_pipeline if step.type != 'PhotoMetricDistortion']
    pipeline.insert(-1, dict(type='RandomCrop', crop_size=(96, 128)))
    dataset = DATASETS.build(
        dict(
            type='NYUDataset',
            _scope_='mmseg',
            data_root=str(scenes),
            img_suffix='.png',
            pipeline=pipeline,
            data_prefix=dict(img_path='img_dir/train', depth_map_path='depth_dir/train'),
        )
    )
    flips = set()
    for index in [0, 1, 2] * 6:
        data = dataset[index]
        image, depth = data['inputs'][0].float(), data['data_samples'].gt_depth_map.data[0]
        flips.add(data['data_samples'].flip)
        assert image.shape == depth.shape == (96, 128)
        apart = (image / 25.5 - depth).abs()
        assert (apart > 0.03).float().mean() < 0.2, 'they differ at the seams of blocks alone'
        assert apart.median() == pytest.approx(0, abs=1e-5)
    assert flips == {True, False}


def test_a_depth_estimator_predicts_metres_at_the_size_of_the_ground_truth() -> None:
    cfg = Config.fromfile(ROOT / 'configs/pairs/baseline_resnet18-half_nyuv2-160x120.py')
    model = MODELS.build(dict(cfg.model, _scope_='mmseg')).eval()
    image = torch.randn(1, 3, 120, 160)
    sample = SegDataSample(metainfo=dict(ori_shape=(240, 320), img_shape=(120, 160)))
    with torch.no_grad():
        depth = model.predict(image, [sample])[0].pred_depth_map.data
        tensor = model(image, mode='tensor')
    assert tensor.shape == (1, 1, 30, 40)
    expected = torch.nn.functional.interpolate(
        torch.nn.functional.interpolate(tensor, (120, 160), mode='bilinear'),
        (240, 320),
        mode='bilinear',
    )
    torch.testing.assert_close(depth, expected[0])
    assert (depth > 0.5).all()
    assert (depth < 10).all()


def test_a_depth_map_is_drawn_in_colours(tmp_path: Path) -> None:
    """As mmkd test --show-dir draws it; the left half is near and the right half far."""
    visualizer = VISUALIZERS.build(
        dict(
            type='SegLocalVisualizer',
            _scope_='mmseg',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path),
            name='depth',
        )
    )
    metres = torch.ones(1, 20, 40)
    metres[..., 20:] = 9.0
    sample = SegDataSample(pred_depth_map=PixelData(data=metres))
    visualizer.add_datasample(
        'depth',
        np.full((20, 40, 3), 128, np.uint8),
        sample,
        draw_gt=False,
        out_file=str(tmp_path / 'depth.png'),
    )
    picture = cv2.imread(str(tmp_path / 'depth.png')).astype(int)
    coloured = np.ptp(picture, axis=2) > 60
    assert coloured.mean() > 0.4, 'the prediction is not grey'
    near, far = picture[-10:, :18].mean((0, 1)), picture[-10:, -18:].mean((0, 1))
    assert abs(near - far).max() > 60
