"""CalibrationMetric: streamed over samples, it says what the functions say of everything at
once.
"""

from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmkd.evaluation import CalibrationMetric, brier_score, expected_calibration_error, nll


def scenes(n: int = 3, classes: int = 4, size: int = 6) -> list[SegDataSample]:
    """Return predicted scenes, a fifth of their labels ignored."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(n):
        labels = torch.randint(classes, (1, size, size), generator=generator)
        labels[torch.rand(1, size, size, generator=generator) < 0.2] = 255
        logits = 2 * torch.randn(classes, size, size, generator=generator)
        samples.append(
            SegDataSample(gt_sem_seg=PixelData(data=labels), seg_logits=PixelData(data=logits))
        )
    return samples


def evaluate(
    samples: list, size: int | None = None, batch: int = 2, **options: Any
) -> dict[str, float]:
    evaluator = Evaluator([METRICS.build(dict(type='mmkd.CalibrationMetric', **options))])
    for i in range(0, len(samples), batch):
        evaluator.process(samples[i : i + batch], None)
    return evaluator.evaluate(size or len(samples))


def test_pixels_are_pooled_over_all_images() -> None:
    samples = scenes()
    logits = torch.stack([s.seg_logits.data for s in samples])
    labels = torch.cat([s.gt_sem_seg.data for s in samples])
    mask = labels != 255
    wrong = (logits.argmax(1) != labels)[mask].double().mean().item()
    assert evaluate(samples) == pytest.approx(
        {
            'calibration/NLL': nll(logits, labels, mask),
            'calibration/Brier': brier_score(logits, labels, mask),
            'calibration/ECE': 100 * expected_calibration_error(logits, labels, mask),
            'calibration/error': 100 * wrong,
        }
    )


def test_classifiers_by_logits_or_by_scores() -> None:
    """By hand: p = (1/4, 3/4), wrong and right: NLL (ln 4 + ln 4/3) / 2, Brier (9/8 + 1/8) / 2, ECE
    |1/2 − 3/4|.
    """
    logits = torch.tensor([0.25, 0.75]).log()
    by_logits = [
        BaseDataElement(pred_logits=logits, gt_label=torch.tensor([0])),
        BaseDataElement(pred_logits=logits + 5, gt_label=torch.tensor([1])),
    ]
    by_score = [BaseDataElement(pred_score=logits.exp(), gt_label=label) for label in (0, 1)]
    expected = {
        'calibration/NLL': 0.836988,
        'calibration/Brier': 0.625,
        'calibration/ECE': 25.0,
        'calibration/error': 50.0,
    }
    assert evaluate(by_logits) == pytest.approx(expected, rel=1e-5)
    assert evaluate(by_score) == pytest.approx(expected, rel=1e-5)


def test_foreign_and_repeated_samples_do_not_count() -> None:
    """Samplers fill up the last round of processes: mmengine drops entries beyond the size of the
    data set.
    """
    samples, foreign = scenes(), scenes(1)[0]
    plain = evaluate(samples)
    foreign.set_metainfo(dict(ood=True))
    assert evaluate([foreign, *samples]) == plain
    del foreign.gt_sem_seg
    assert evaluate([*samples, foreign]) == plain
    assert evaluate([*samples, samples[0]], size=3) == plain


def test_memory_does_not_grow_with_pixels() -> None:
    sizes = []
    for size in (4, 32):
        metric = CalibrationMetric()
        metric.process(None, [scenes(1, size=size)[0].to_dict()])
        sums = vars(metric.results[0])
        sizes.append(
            sum(value.numel() if isinstance(value, torch.Tensor) else 1 for value in sums.values())
        )
    assert sizes == [49, 49]


def test_another_ignore_index_and_prefix() -> None:
    samples = scenes()
    expected = evaluate(samples)
    for sample in samples:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 255] = 99
    assert evaluate(samples, ignore_index=99, prefix='c')['c/NLL'] == expected['calibration/NLL']
    with pytest.raises(
        ValueError, match=r'labels hold the ids \[99\], but the logits have 4 classes'
    ):
        evaluate(samples)


def test_refusals() -> None:
    with pytest.raises(
        KeyError,
        match="'seg_logits', 'pred_logits' or 'pred_score', this one has .'gt_label'.*Mend",
    ):
        evaluate([BaseDataElement(gt_label=0)])
    with pytest.raises(
        KeyError, match="truth in 'gt_sem_seg' or 'gt_label'.*Mend: load .*or mark.*ood=True"
    ):
        evaluate([BaseDataElement(pred_score=torch.tensor([0.5, 0.5]))])
    sample = scenes(1)[0]
    sample.gt_sem_seg.data[:] = 255
    with pytest.raises(
        ValueError, match='one labelled prediction or more, got none: every label is ignored'
    ):
        evaluate([sample])


def test_class_255_of_an_image_counts_and_minus_100_does_not() -> None:
    """Pixels are ignored by 255, images by −100."""
    logits = torch.zeros(3, 300)
    logits[0, 3], logits[1, 7], logits[2, 9] = 9.0, 9.0, 9.0
    metric = CalibrationMetric()
    metric.process(
        None,
        [
            dict(pred_logits=own, gt_label=label)
            for own, label in zip(logits, (3, 255, -100), strict=True)
        ],
    )
    assert metric.evaluate(3)['calibration/error'] == 50
