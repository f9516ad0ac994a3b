"""UncertaintyMetric: samples and pixels reach the ranks that the functions take."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmkd.evaluation import dirichlet_uncertainty, ood_auroc, prediction_rejection_ratio

CLASSES = 4


def evaluate(samples: list, **options: Any) -> dict[str, float]:
    evaluator = Evaluator([METRICS.build(dict(type='mmkd.UncertaintyMetric', **options))])
    for sample in samples:
        evaluator.process([sample], None)
    return evaluator.evaluate(len(samples))


def images(n: int = 40, foreign: int = 15) -> tuple[list[BaseDataElement], Tensor, Tensor]:
    """Return classified images, the last of which come from elsewhere, with their logits and
    labels.
    """
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(n, CLASSES, generator=generator, dtype=torch.float64)
    logits[n - foreign :] -= 1.5
    labels = torch.randint(CLASSES, (n,), generator=generator)
    samples = [
        BaseDataElement(pred_logits=z, gt_label=y) for z, y in zip(logits, labels, strict=True)
    ]
    for sample in samples[n - foreign :]:
        del sample.gt_label
        sample.set_metainfo(dict(ood=True))
    return samples, logits, labels


def scenes(n: int = 4, size: int = 8, seed: int = 2) -> list[SegDataSample]:
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(n):
        labels = torch.randint(CLASSES, (1, size, size), generator=generator)
        labels[torch.rand(1, size, size, generator=generator) < 0.3] = 255
        logits = 2 * torch.randn(CLASSES, size, size, generator=generator, dtype=torch.float64)
        samples.append(
            SegDataSample(gt_sem_seg=PixelData(data=labels), seg_logits=PixelData(data=logits))
        )
    return samples


def foreign_scene(shift: float) -> SegDataSample:
    logits = torch.randn(CLASSES, 8, 8, generator=torch.Generator().manual_seed(3)) + shift
    return SegDataSample(seg_logits=PixelData(data=logits), metainfo=dict(ood=True))


@pytest.mark.parametrize('offset', [0.0, 1.0])
def test_images_read_as_dirichlets(offset: float) -> None:
    """The offset belongs to α alone: what is predicted stays softmax(z)."""
    samples, logits, labels = images()
    measures = dirichlet_uncertainty(logits.exp() + offset)
    wrong, ood = (logits.argmax(1) != labels)[:25], np.arange(40) >= 25
    assert evaluate(samples, offset=offset) == pytest.approx(
        {
            'uncertainty/PRR': prediction_rejection_ratio(measures['total'][:25], wrong),
            'uncertainty/AUROC_total': 100 * ood_auroc(measures['total'], ood),
            'uncertainty/AUROC_knowledge': 100 * ood_auroc(measures['knowledge'], ood),
        }
    )


def test_images_read_as_softmax_have_no_knowledge() -> None:
    samples, logits, labels = images()
    total = torch.distributions.Categorical(logits=logits).entropy()
    found = evaluate(samples, outputs='softmax')
    assert found == pytest.approx(
        {
            'uncertainty/PRR': prediction_rejection_ratio(
                total[:25], (logits.argmax(1) != labels)[:25]
            ),
            'uncertainty/AUROC_total': 100 * ood_auroc(total, np.arange(40) >= 25),
        }
    )


def test_ensembles_bring_their_own_fields() -> None:
    samples, _, _ = images(4, 2)
    for sample, total, knowledge in zip(
        samples, (0.1, 0.9, 0.5, 0.6), (0.0, 0.1, 0.2, 0.3), strict=True
    ):
        sample.set_data(
            dict(
                total_uncertainty=torch.tensor(total), knowledge_uncertainty=torch.tensor(knowledge)
            )
        )
    samples[0].gt_label, samples[1].gt_label = (
        s.pred_logits.argmax() + i for i, s in enumerate(samples[:2])
    )
    assert evaluate(samples, outputs='ensemble') == pytest.approx(
        {
            'uncertainty/PRR': 100.0,
            'uncertainty/AUROC_total': 50.0,
            'uncertainty/AUROC_knowledge': 100.0,
        }
    )


def test_pixels_that_count() -> None:
    """PRR over the labelled pixels of all scenes at once; no AUROC without foreign scenes."""
    samples = scenes()
    logits = torch.stack([s.seg_logits.data for s in samples])
    labels = torch.cat([s.gt_sem_seg.data for s in samples])
    total, mask = dirichlet_uncertainty(logits.exp())['total'], labels != 255
    expected = prediction_rejection_ratio(total[mask], (logits.argmax(1) != labels)[mask])
    assert evaluate(samples) == pytest.approx({'uncertainty/PRR': expected})
    for sample, own in zip(samples, total, strict=True):
        sample.set_data(
            dict(
                total_uncertainty=PixelData(data=own[None]),
                knowledge_uncertainty=PixelData(data=own[None]),
            )
        )
    assert evaluate(samples, outputs='ensemble') == pytest.approx({'uncertainty/PRR': expected})


def test_scenes_are_ranked_by_their_mean() -> None:
    """Three foreign scenes, one of them with as much evidence as the others: 2 of 3 × 4 pairs out
    of order at most.
    """
    samples, shifts = scenes(), (-3.0, -2.0, 4.0)
    foreign = [foreign_scene(shift) for shift in shifts]
    found = evaluate(samples + foreign)

    def mean(sample: SegDataSample) -> float:
        knowledge = dirichlet_uncertainty(sample.seg_logits.data[None].exp())['knowledge']
        keep = (
            sample.gt_sem_seg.data != 255
            if 'gt_sem_seg' in sample
            else torch.ones_like(knowledge).bool()
        )
        return knowledge[keep].mean().item()

    expected = ood_auroc([mean(s) for s in samples + foreign], [False] * 4 + [True] * 3)
    assert found['uncertainty/AUROC_knowledge'] == pytest.approx(100 * expected)
    assert expected == pytest.approx(2 / 3)
    assert found['uncertainty/PRR'] == evaluate(samples)['uncertainty/PRR']


def test_a_bounded_number_of_positions() -> None:
    """20 of about 45: an unbiased draw, the same whatever the order of the scenes."""
    samples = scenes(60)
    metric = METRICS.build(dict(type='mmkd.UncertaintyMetric', positions_per_image=20))
    metric.process(None, [sample.to_dict() for sample in samples])
    assert {len(result['total']) for result in metric.results} == {20}
    some, every = evaluate(samples, positions_per_image=20), evaluate(samples)
    assert some['uncertainty/PRR'] == pytest.approx(every['uncertainty/PRR'], abs=8)
    assert some['uncertainty/PRR'] != every['uncertainty/PRR']
    assert evaluate(samples[::-1], positions_per_image=20) == pytest.approx(some)


def test_a_scene_without_labels_is_passed_over() -> None:
    samples = scenes(2)
    plain = evaluate([samples[0], foreign_scene(0.0)])
    samples[1].gt_sem_seg.data[:] = 255
    assert evaluate([*samples, foreign_scene(0.0)]) == plain
    with pytest.raises(
        ValueError, match='no labelled prediction: every label is ignored. Mend: check ignore_index'
    ):
        evaluate(samples[1:])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(outputs='logits'), "outputs must be one of .* got 'logits'"),
        (
            dict(outputs='ensemble', offset=1.0),
            "offset=1.0 is added to a Dirichlet's α, which outputs='ensemble' does not",
        ),
        (
            dict(positions_per_image=0),
            'positions_per_image must be a whole number of at least 1, got 0',
        ),
    ],
)
def test_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate([], **options)


def test_refusals() -> None:
    samples, _, _ = images()
    with pytest.raises(
        ValueError, match='all 15 are out of distribution. Mend: a test set that joins both'
    ):
        evaluate(samples[25:])
    with pytest.raises(
        KeyError, match="reads 'total_uncertainty', which this prediction lacks.*Mend: test an mmkd"
    ):
        evaluate(samples, outputs='ensemble')
    del samples[0].gt_label
    with pytest.raises(KeyError, match="truth in 'gt_sem_seg' or 'gt_label'.*ood=True"):
        evaluate(samples)
