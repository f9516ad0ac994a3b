"""UncertaintyHook: maps of total, data and knowledge uncertainty, in predictions and pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.evaluation.functional.uncertainty import (
    check_outputs,
    concentration,
    dirichlet_uncertainty,
)
from mmkd.registry import HOOKS
from mmkd.utils.checks import check_choice, check_count

FIELDS = ('total', 'data', 'knowledge')


@HOOKS.register_module()
class UncertaintyHook(Hook):
    r"""Add maps of uncertainty to what a segmentor predicts, and draw them.

    ``total_uncertainty``, ``data_uncertainty`` and ``knowledge_uncertainty`` are each PixelData (1,
    H, W) in nats. Where drawing is on (SegVisualizationHook(draw=True), which ``mmkd test
    --show-dir`` sets) the visualizer saves pictures named ``test_<image>_<kind>_<number>.png``: of
    every image in tests, of the first image of every ``interval``-th batch in validations. Colours
    run from 0 (dark) to ln K (bright) for all kinds, K being the number of classes, so that
    pictures of several images and of several networks of the same classes compare.

    Args:
        outputs: 'dirichlet' reads α = exp(seg_logits) + offset, unless the fields are there
            already; 'ensemble' expects them, as mmkd.Ensemble writes them.
        offset: Added to every α.
        interval: Batches between pictures in a validation.
        kinds: Which maps are drawn: 'total', 'data', 'knowledge'.

    Raises:
        ValueError: Unknown options; predictions without logits or, for 'ensemble', without the
            fields.
    """

    # The fields are there for every hook of normal priority.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        outputs: str = 'dirichlet',
        offset: float = 0.0,
        interval: int = 50,
        kinds: Sequence[str] = ('total', 'knowledge'),
    ) -> None:
        check_outputs(outputs, ('dirichlet', 'ensemble'), offset)
        check_count('interval', interval, 1)
        for kind in kinds:
            check_choice('kinds', kind, FIELDS)
        self.outputs, self.offset, self.interval, self.kinds = (
            outputs,
            offset,
            interval,
            tuple(kinds),
        )
        self.drawn = 0

    def before_test(self, runner: Runner) -> None:
        """Number the pictures of each test from 1, as mmseg numbers its own."""
        self.drawn = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Add the fields; draw the first image now and then."""
        for sample in outputs or []:
            self.add_fields(sample)
        if outputs and draws(runner) and (runner.iter + batch_idx) % self.interval == 0:
            self._draw(runner, 'val', outputs[0], runner.iter + batch_idx)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Add the fields; draw every image."""
        for sample in outputs or []:
            self.add_fields(sample)
            if draws(runner):
                self.drawn += 1
                self._draw(runner, 'test', sample, self.drawn)

    def add_fields(self, sample: SegDataSample) -> None:
        """Write the three maps into a predicted sample, unless it has them."""
        if 'seg_logits' not in sample:
            raise ValueError(
                "UncertaintyHook reads 'seg_logits', which this prediction lacks (it has "
                f'{sorted(sample.keys())}). Mend: use it with segmentors; a classifier needs no '
                'maps'
            )
        if all(f'{name}_uncertainty' in sample for name in FIELDS):
            return
        if self.outputs == 'ensemble':
            raise ValueError(
                "UncertaintyHook(outputs='ensemble') finds no uncertainties in this prediction (it "
                f'has {sorted(sample.keys())}). Mend: test an mmkd.Ensemble, or read a single '
                "network by outputs='dirichlet'"
            )
        logits = sample.seg_logits.data[None]
        measures = dirichlet_uncertainty(concentration(logits, self.offset))
        sample.set_data(
            {f'{name}_uncertainty': PixelData(data=measures[name].float()) for name in FIELDS}
        )

    def _draw(self, runner: Runner, mode: str, sample: SegDataSample, step: int) -> None:
        stem = Path(sample.metainfo.get('img_path', 'image')).stem
        for kind in self.kinds:
            picture = colour(
                sample.get(f'{kind}_uncertainty').data[0], math.log(len(sample.seg_logits.data))
            )
            runner.visualizer.add_image(f'{mode}_{stem}_{kind}', picture, step)


def colour(values: Tensor, most: float) -> np.ndarray:
    """Return an RGB picture (H, W, 3), uint8, of a map (H, W): viridis from 0 to ``most`` (bright).

    >>> import torch
    >>> colour(torch.tensor([[0., 1.]]), most=1.).tolist()
    [[[68, 1, 84], [253, 231, 36]]]
    """
    return colormaps['viridis']((values.float() / most).clamp(0, 1).cpu().numpy(), bytes=True)[
        ..., :3
    ].copy()


def draws(runner: Runner) -> bool:
    """Return whether predictions are drawn in this run."""
    return any(isinstance(hook, SegVisualizationHook) and hook.draw for hook in runner.hooks)
