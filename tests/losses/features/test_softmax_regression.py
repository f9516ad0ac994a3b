"""SRRL's loss: hand values, classes of images, weights, refusals."""

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses import SoftmaxRegressionLoss, softmax_regression


def tensors() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    features = (torch.randn(2, 3, 4, 5).double() for _ in range(2))
    return (*features, *(torch.randn(2, 6).double() for _ in range(2)))


def test_logits_of_images_beside_maps() -> None:
    """The authors' statm_loss and F.mse_loss, 1 and 1."""
    s, t, a, b = tensors()
    stat = (s.flatten(2).mean(2) - t.flatten(2).mean(2)).pow(2).mean(1).mean()
    value = softmax_regression(s, t, a, b, logits=1.0)
    torch.testing.assert_close(value, stat + F.mse_loss(a, b))
    assert SoftmaxRegressionLoss()(s, t, a, b) == softmax_regression(s, t, a, b)


def test_each_term_alone() -> None:
    s, t, a, b = tensors()
    one = softmax_regression(s, t, a, b, logits=0.0)
    other = softmax_regression(s, t, a, b, feature=0.0)
    torch.testing.assert_close(one + other, softmax_regression(s, t, a, b))
    torch.testing.assert_close(other, 5 * F.mse_loss(a, b))


def test_a_weight_of_one_changes_nothing_and_of_zero_leaves_out() -> None:
    s, t, *_ = tensors()
    a, b = s[:, :2], t[:, :2]
    weight = torch.ones(2, 4, 5).double()
    whole = softmax_regression(s, t, a, b)
    torch.testing.assert_close(softmax_regression(s, t, a, b, weight=weight), whole)
    weight[0] = 0
    torch.testing.assert_close(
        softmax_regression(s, t, a, b, weight=weight),
        softmax_regression(s[1:], t[1:], a[1:], b[1:]),
    )


def test_half_precision_is_widened_first() -> None:
    half = [(100 * x).half() for x in tensors()]
    value = softmax_regression(*half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, softmax_regression(*(x.float() for x in half)))
    assert value > 65504


def test_bad_input() -> None:
    s, t, a, b = tensors()
    with pytest.raises(ValueError, match='learns nothing. Mend: one of them above 0'):
        SoftmaxRegressionLoss(feature=0.0, logits=0.0)
    with pytest.raises(ValueError, match="penalty must be one of .*'mse'"):
        SoftmaxRegressionLoss(penalty='mse')
    with pytest.raises(ValueError, match='logits'):
        SoftmaxRegressionLoss(logits=-1.0)
    with pytest.raises(ValueError, match='tau'):
        softmax_regression(s, t, a, b, penalty='kl', tau=0.0)
    with pytest.raises(ValueError, match='does not say which images count'):
        softmax_regression(s, t, a, b, mask=torch.ones(2, 4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match='mend: a head that keeps the size'):
        softmax_regression(s, t, s[..., :2], t[..., :2])
    with pytest.raises(ValueError, match='of one shape|same'):
        softmax_regression(s, t, a, b[:, :4])
