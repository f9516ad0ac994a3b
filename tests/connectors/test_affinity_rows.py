"""AffinityRows by value."""

import math

import pytest
import torch

from mmkd.connectors import AffinityRows
from mmkd.distiller.objectives.objective import Objective
from mmkd.losses import AttentionKLLoss


def test_equals_the_slow_loop() -> None:
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    rows = AffinityRows(tau=0.3)(x)
    for n in range(2):
        places = [x[n, :, i, j] for i in range(2) for j in range(3)]
        for i, a in enumerate(places):
            e = [math.exp(float(a @ b / a.norm() / b.norm()) / 0.3) for b in places]
            assert rows[n, 0, i].tolist() == pytest.approx([v / sum(e) for v in e])


def test_channels_and_scale_of_the_map_do_not_matter() -> None:
    x = torch.randn(1, 4, 3, 3)
    rotation = torch.linalg.qr(torch.randn(8, 4))[0]
    wider = torch.einsum('dc,nchw->ndhw', rotation, 7 * x)
    torch.testing.assert_close(AffinityRows()(wider), AffinityRows()(x), rtol=1e-4, atol=1e-6)


def test_places_are_averaged_and_keys_may_be_coarser() -> None:
    x = torch.randn(1, 4, 8, 8)
    assert AffinityRows(size=(4, 2))(x).shape == (1, 1, 8, 8)
    coarse = AffinityRows(size=(4, 4), key_size=(2, 2))(x)
    assert coarse.shape == (1, 1, 16, 4)
    torch.testing.assert_close(coarse.sum(-1), torch.ones(1, 1, 16))
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(AffinityRows(size=(4, 4))(x), AffinityRows()(pooled))


def test_a_cnn_learns_the_attention_of_a_transformer() -> None:
    """As a connector of one side; its gradient goes to the map, in float32 under half precision."""
    objective = Objective(
        'rows',
        dict(type='AttentionKLLoss', heads='mean'),
        dict(student=['map'], teacher=['attention']),
        weight=2.0,
        reads=dict(student='student.map', teacher='teacher.attention'),
        connectors=dict(student=dict(type='AffinityRows', size=(2, 2))),
    )
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    attention = torch.randn(1, 2, 4, 4).softmax(-1)
    value = objective(dict(student=dict(map=x), teacher=dict(attention=attention)))['rows.loss']
    expected = 2 * AttentionKLLoss(heads='mean')(AffinityRows(size=(2, 2))(x), attention)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.grad(value, x)[0].abs().sum() > 0
    assert AffinityRows()(x.detach().half()).dtype == torch.float32


@pytest.mark.parametrize('size', [16, (16,), (1, 2, 3)])
def test_a_size_is_height_and_width(size: object) -> None:
    with pytest.raises(
        ValueError, match=r'size must be height and width, or None, got .*Mend: size=\(16, 16\)'
    ):
        AffinityRows(size=size)


def test_a_place_of_zeros_has_a_finite_gradient() -> None:
    x = torch.randn(1, 4, 2, 2)
    x[..., 0, 0] = 0
    (gradient,) = torch.autograd.grad(AffinityRows()(x.requires_grad_())[..., 0].sum(), x)
    assert gradient.abs().max() < 100


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r'AffinityRows needs a map \(N, C, H, W\), got \(2, 3\)'):
        AffinityRows()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match='tau'):
        AffinityRows(tau=0.0)
    with pytest.raises(ValueError, match='size'):
        AffinityRows(size=(0, 4))
