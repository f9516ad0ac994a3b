"""Accuracy: by hand, against scikit-learn, ties, out-of-distribution samples, messages."""

import pytest
import torch
from mmengine.registry import METRICS
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor

from mmkd.evaluation import Accuracy


def samples(scores: Tensor, labels: list[int], **extra: object) -> list[dict]:
    """Return predicted samples as an Evaluator gives them."""
    return [
        dict(pred_score=score, gt_label=torch.tensor([label]), **extra)
        for score, label in zip(scores, labels, strict=True)
    ]


def evaluate(metric: Accuracy, data: list[dict], batch: int = 3) -> dict[str, float]:
    """Return the metric over batches."""
    for start in range(0, len(data), batch):
        metric.process({}, data[start : start + batch])
    return metric.evaluate(len(data))


def test_by_hand() -> None:
    """Classes 1, 2, 0 of four images: the first is right, the second is second, the others are
    last.
    """
    scores = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.5, 0.4], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7]])
    metric = METRICS.build(dict(type='mmkd.Accuracy', topk=(1, 2)))
    assert evaluate(metric, samples(scores, [1, 2, 0, 0])) == {
        'accuracy/top1': 25.0,
        'accuracy/top2': 50.0,
    }


@pytest.mark.parametrize('k', [1, 2, 5])
def test_equal_to_scikit_learn(k: int) -> None:
    """On random scores of seven classes."""
    scores, labels = torch.rand(40, 7), torch.randint(0, 7, (40,)).tolist()
    expected = top_k_accuracy_score(labels, scores.numpy(), k=k, labels=range(7))
    assert evaluate(Accuracy((k,)), samples(scores, labels))[f'accuracy/top{k}'] == pytest.approx(
        100 * expected
    )


def test_constant_scores_are_right_for_one_class() -> None:
    """A dead network reaches chance, not 100 percent; scores of NaN reach nothing."""
    assert evaluate(Accuracy(), samples(torch.full((10, 5), 0.2), [0, 1, 2, 3, 4] * 2)) == {
        'accuracy/top1': 20.0
    }
    assert evaluate(Accuracy(), samples(torch.full((2, 5), torch.nan), [0, 1])) == {
        'accuracy/top1': 0.0
    }


def test_a_label_that_does_not_count() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    assert evaluate(Accuracy(), samples(scores, [0, -100, 0]), batch=3) == {'accuracy/top1': 50.0}


def test_samples_out_of_distribution_do_not_count() -> None:
    """With or without a label; their place is kept, so that results are cut to the size of the data
    set rightly.
    """
    known = samples(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), [0, 1], ood=False)
    foreign = [dict(pred_score=torch.tensor([0.9, 0.1]), ood=True)]
    metric = Accuracy()
    assert evaluate(metric, foreign + known[:1] + foreign * 3 + known[1:], batch=2) == {
        'accuracy/top1': 50.0
    }


@pytest.mark.parametrize(
    ('metric', 'data', 'error', 'message'),
    [
        (
            dict(topk=(3,)),
            samples(torch.rand(1, 2), [0]),
            ValueError,
            r'topk=\(3,\) of 2 classes. Mend',
        ),
        (
            dict(),
            [dict(gt_label=torch.tensor([0]))],
            KeyError,
            "needs 'pred_score' in every data sample, which has",
        ),
        (dict(), [dict(pred_score=torch.rand(2))], KeyError, "needs 'gt_label'.*labelled data set"),
        (
            dict(),
            [dict(pred_score=torch.rand(2), ood=True)],
            ValueError,
            r'no sample with a label \(of 1\)',
        ),
        (dict(topk=(0,)), [], ValueError, 'topk must be .*got 0'),
    ],
)
def test_mistakes(metric: dict, data: list[dict], error: type[Exception], message: str) -> None:
    """Each names what was got and the mend."""
    with pytest.raises(error, match=message):
        evaluate(Accuracy(**metric), data)
