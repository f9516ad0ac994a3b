"""What is read of a prediction: logits, or the scores of heads that answer with queries."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.evaluation import CalibrationMetric, UncertaintyMetric
from mmkd.evaluation.functional.predictions import logits_of
from mmkd.models.ensemble import probabilities_of
from mmkd.tasks.queries import answers_with_queries, log_scores

CLASSES, RIGHT = 19, 3


class MaskFormerHead(nn.Module):
    """Called as mmseg's, which needs mmdet."""


def certain() -> tuple[Tensor, Tensor]:
    """Return what queries say who are nearly certain of one class everywhere."""
    classes = torch.full((1, 5, CLASSES + 1), -20.0)
    classes[:, 0, RIGHT] = 20.0
    classes[:, 1:, CLASSES] = 20.0  # no object
    masks = torch.full((1, 5, 8, 8), -20.0)
    masks[:, 0] = 20.0
    return classes, masks


def sample() -> SegDataSample:
    """Return the prediction as mmseg's heads of queries write it."""
    classes, masks = certain()
    scores = torch.einsum('nqc,nqhw->nchw', classes.softmax(-1)[..., :-1], masks.sigmoid())
    return SegDataSample(
        seg_logits=PixelData(data=scores[0]),
        gt_sem_seg=PixelData(data=torch.full((1, 8, 8), RIGHT)),
        metainfo={},
    )


def test_scores_of_queries_are_shares() -> None:
    torch.testing.assert_close(
        logits_of(sample().to_dict(), scores=True).softmax(1), log_scores(*certain()).softmax(1)
    )
    metric = CalibrationMetric(outputs='scores')
    metric.process(None, [sample().to_dict()])
    found = metric.evaluate(1)
    assert found['calibration/NLL'] < 1e-3
    assert found['calibration/ECE'] < 1e-3
    assert found['calibration/error'] == 0
    wrong = sample()
    wrong.gt_sem_seg.data[:, :4] = 0
    of_shares = UncertaintyMetric(outputs='scores')
    of_shares.process(None, [wrong.to_dict()])
    assert list(of_shares.evaluate(1)) == ['uncertainty/PRR']


@pytest.mark.bad_input
@pytest.mark.parametrize('metric', [CalibrationMetric(), UncertaintyMetric(outputs='softmax')])
def test_scores_are_no_logits(metric: CalibrationMetric | UncertaintyMetric) -> None:
    """A softmax of them gives the right class 1 in 8."""
    with pytest.raises(ValueError, match=r"seg_logits lie between .* Mend: outputs='scores'"):
        metric.process(None, [sample().to_dict()])
    for logits in (torch.tensor([[-0.1], [2.0]]), torch.tensor([[0.0], [9.0]]), torch.zeros(2, 1)):
        data = PixelData(data=logits[..., None])
        assert torch.equal(logits_of(dict(seg_logits=dict(data=data.data))), data.data[None])


def test_an_ensemble_knows_which_of_its_members_answer_with_queries() -> None:
    asked = SimpleNamespace(decode_head=MaskFormerHead())
    cascade = SimpleNamespace(decode_head=nn.ModuleList([nn.Identity(), MaskFormerHead()]))
    assert [answers_with_queries(one) for one in (asked, cascade, nn.Identity())] == [
        True,
        True,
        False,
    ]
    assert probabilities_of(sample(), asked)[0, RIGHT].min() > 0.999
    plain = SegDataSample(seg_logits=PixelData(data=torch.tensor([[[-1.0]], [[1.0]]])))
    expected = torch.tensor([-1.0, 1.0]).double().softmax(0)
    torch.testing.assert_close(probabilities_of(plain, nn.Identity()).flatten(), expected)
