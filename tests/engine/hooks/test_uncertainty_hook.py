"""UncertaintyHook in real tests and validations: the fields, and the pictures' pixels."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch
from helpers.runs import run_config
from helpers.tiny import segmentor
from matplotlib import colormaps
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.engine.hooks import UncertaintyHook
from mmkd.evaluation import dirichlet_uncertainty

KINDS = ('total', 'data', 'knowledge')


class Keep(Hook):
    """Keeps what the model predicted, after UncertaintyHook."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.samples: list[SegDataSample] = []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.samples.extend(outputs)


def config(folder: Path, hook: dict, draw: bool = True, model: dict | None = None) -> Config:
    """Return a run of three classes on six images, drawn as mmkd test --show-dir says."""
    cfg = run_config(
        folder, model=model or segmentor(4, num_classes=3, size=32, auxiliary=False), name='run'
    )
    if draw:
        cfg.default_hooks.visualization = dict(type='SegVisualizationHook', draw=True, interval=1)
        cfg.visualizer = dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(folder / 'shown'),
            name=f'show in {folder}',
        )
    cfg.custom_hooks = [dict(type='mmkd.UncertaintyHook', **hook)]
    return cfg


def run(cfg: Config) -> list[SegDataSample]:
    """Test as mmkd test does."""
    keep, runner = Keep(), build_runner(prepare_config(cfg))
    runner.register_hook(keep)
    runner.test()
    return keep.samples


def pictures(folder: Path, kind: str) -> list[np.ndarray]:
    files = sorted(folder.rglob(f'*_{kind}_*.png'), key=lambda file: int(file.stem.split('_')[-1]))
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]


def assert_shown(samples: list[SegDataSample], folder: Path, kind: str) -> None:
    found = pictures(folder, kind)
    assert len(found) == len(samples) == 6
    for picture, sample in zip(found, samples, strict=True):
        values = sample.get(f'{kind}_uncertainty').data[0].numpy() / math.log(3)
        assert np.array_equal(picture, colormaps['viridis'](values, bytes=True)[..., :3])


def test_fields_and_pictures_of_a_test(tmp_path: Path) -> None:
    samples = run(config(tmp_path, dict(outputs='dirichlet', offset=1.0)))
    for sample in samples:
        expected = dirichlet_uncertainty(sample.seg_logits.data[None].double().exp() + 1)
        for name in KINDS:
            torch.testing.assert_close(
                sample.get(f'{name}_uncertainty').data, expected[name].float()
            )
            assert sample.get(f'{name}_uncertainty').shape == (40, 40)
    assert_shown(samples, tmp_path / 'shown', 'total')
    assert_shown(samples, tmp_path / 'shown', 'knowledge')
    assert pictures(tmp_path / 'shown', 'data') == []
    assert (
        len(list((tmp_path / 'shown').rglob('test_?.png_*.png'))) == 6
    )  # mmseg's own are still there
    assert list((tmp_path / 'shown').rglob('test_0_total_1.png'))


def test_an_ensemble_in_a_test(tmp_path: Path) -> None:
    """The fields that mmkd.Ensemble wrote are drawn, not those of a Dirichlet of its logits."""
    members = [
        dict(model=segmentor(4, num_classes=3, size=32, auxiliary=False), allow_untrained=True)
    ] * 2
    cfg = config(
        tmp_path,
        dict(outputs='ensemble', kinds=KINDS),
        model=dict(type='mmkd.Ensemble', members=members),
    )
    samples = run(cfg)
    for kind in KINDS:
        assert_shown(samples, tmp_path / 'shown', kind)
    for sample in samples:
        total, data, knowledge = (sample.get(f'{name}_uncertainty').data for name in KINDS)
        torch.testing.assert_close(total, data + knowledge)
        entropy = torch.distributions.Categorical(
            logits=sample.seg_logits.data.movedim(0, -1)
        ).entropy()
        torch.testing.assert_close(total[0], entropy)


def test_no_pictures_where_nothing_is_drawn(tmp_path: Path) -> None:
    samples = run(config(tmp_path, {}, draw=False))
    assert all(f'{name}_uncertainty' in sample for sample in samples for name in KINDS)
    assert list(tmp_path.rglob('vis_image')) == []


def test_validations_draw_now_and_then(tmp_path: Path) -> None:
    """Three batches a validation: the first image of batches 0 and 2."""
    cfg = config(tmp_path, dict(interval=2, kinds=('knowledge',)))
    build_runner(prepare_config(cfg)).val()
    assert sorted(file.name for file in (tmp_path / 'shown').rglob('val_*knowledge*.png')) == [
        'val_0_knowledge_0.png',
        'val_4_knowledge_2.png',
    ]


def test_a_fixed_scale() -> None:
    """Equal logits of K classes without evidence: total ln K is the brightest colour, whatever the
    image holds.
    """
    runner, hook = MagicMock(), UncertaintyHook(kinds=('total',))
    runner.hooks, logits = [MagicMock(spec=[])], torch.full((7, 2, 2), -30.0)
    hook.after_test_iter(
        runner, 0, None, [sample := SegDataSample(seg_logits=PixelData(data=logits))]
    )
    assert sample.total_uncertainty.data.numpy() == pytest.approx(math.log(7), rel=1e-6)
    assert sample.data_uncertainty.data.numpy() == pytest.approx(0, abs=1e-6)
    runner.visualizer.add_image.assert_not_called()
    hook._draw(runner, 'test', sample, 3)
    (name, picture, step), _ = runner.visualizer.add_image.call_args
    assert (name, step) == ('test_image_total', 3)
    assert picture.tolist() == [[[253, 231, 36]] * 2] * 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(outputs='softmax'),
            r"outputs must be one of \('dirichlet', 'ensemble'\), got 'softmax'",
        ),
        (
            dict(outputs='ensemble', offset=1.0),
            "offset=1.0 is added to a Dirichlet's α, which outputs='ensemble' does not",
        ),
        (dict(kinds=('totals',)), "kinds must be one of .* got 'totals'; did you mean 'total'"),
        (dict(interval=0), 'interval must be a whole number of at least 1, got 0'),
    ],
)
def test_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UncertaintyHook(**options)


def test_predictions_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match="reads 'seg_logits', which this prediction lacks.*Mend: use it with"
    ):
        UncertaintyHook().add_fields(SegDataSample())
    sample = SegDataSample(seg_logits=PixelData(data=torch.zeros(3, 2, 2)))
    with pytest.raises(
        ValueError, match='finds no uncertainties in this prediction .*mmkd.Ensemble'
    ):
        UncertaintyHook(outputs='ensemble').add_fields(sample)
