"""The connector: a 1×1 convolution and a bilinear resize, against slow loops."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.connectors import Connector
from mmkd.distiller.objectives.objective import Objective
from mmkd.losses import hidden_cosine


def convolve(x: Tensor, connector: Connector) -> Tensor:
    """Slow loop: every place by itself, y_o = Σ_i w_oi x_i + b_o."""
    weight, bias = connector.conv.weight[:, :, 0, 0], connector.conv.bias
    out = torch.zeros(x.shape[0], len(weight), *x.shape[2:])
    for n in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                out[n, :, i, j] = (
                    sum(weight[:, c] * x[n, c, i, j] for c in range(x.shape[1])) + bias
                )
    return out


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Slow loop of bilinear interpolation between pixel centres (align_corners=False)."""
    out = torch.zeros(*x.shape[:2], *size)
    height, width = x.shape[2:]
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            z = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
            dy, dz = y - y0, z - z0
            out[..., i, j] = (1 - dy) * ((1 - dz) * x[..., y0, z0] + dz * x[..., y0, z1]) + dy * (
                (1 - dz) * x[..., y1, z0] + dz * x[..., y1, z1]
            )
    return out


def test_convolution_and_resize_against_loops() -> None:
    connector, x = Connector(3, 5, resize=True), torch.randn(2, 3, 4, 3)
    torch.testing.assert_close(
        connector(x), convolve(x, connector)
    )  # no size given: nothing to resize to
    torch.testing.assert_close(connector(x, size=(7, 5)), bilinear(convolve(x, connector), (7, 5)))
    torch.testing.assert_close(connector(x, size=(4, 3)), convolve(x, connector))


def test_hand_values() -> None:
    connector = Connector(2, 1)
    nn.init.constant_(connector.conv.weight, 3.0)
    nn.init.constant_(connector.conv.bias, 1.0)
    assert connector(torch.tensor([[[[1.0]], [[2.0]]]])).item() == 10.0
    halves = Connector(1, resize=True)(torch.tensor([[[[0.0, 4.0]]]]), size=(1, 4))
    assert halves.tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]
    assert Connector(1, resize=False)(torch.ones(1, 1, 1, 2), size=(1, 4)).shape == (1, 1, 1, 2)


def test_without_channels_it_has_no_weights() -> None:
    connector, x = Connector(3, resize=True), torch.randn(1, 3, 2, 2)
    assert list(connector.parameters()) == []
    assert connector(x, size=(2, 2)) is x
    torch.testing.assert_close(connector(x, size=(5, 3)), bilinear(x, (5, 3)))


def test_vectors() -> None:
    connector, x = Connector(3, 5), torch.randn(2, 3)
    torch.testing.assert_close(
        connector(x), x @ connector.conv.weight[:, :, 0, 0].T + connector.conv.bias
    )
    assert Connector(3, resize=True)(x, size=()) is x


def test_gradient() -> None:
    connector = Connector(2, 3, resize=True).double()
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: connector(x, size=(4, 5)), (x, *connector.parameters())
    )


def test_it_is_registered_and_initialised_by_its_config() -> None:
    connector = MODELS.build(
        dict(
            type='mmkd.Connector',
            in_channels=2,
            out_channels=2,
            init_cfg=dict(type='Constant', val=2.0, bias=1.0, layer='Conv2d'),
        )
    )
    connector.init_weights()
    assert connector(torch.ones(1, 2, 1, 1)).flatten().tolist() == [5.0, 5.0]
    assert 'resize=False' in repr(connector)


def test_too_few_channels() -> None:
    with pytest.raises(
        RuntimeError, match='expected input.* to have 3 channels, but got 2 channels'
    ):
        Connector(3, 5)(torch.zeros(1, 2, 4, 4))


def test_tokens_keep_their_places() -> None:
    """The same linear map at every token, as of a linear layer."""
    connector = Connector(3, 5, tokens=True)
    x = torch.randn(2, 4, 3)
    expected = torch.nn.functional.linear(x, connector.conv.weight.flatten(1), connector.conv.bias)
    torch.testing.assert_close(connector(x), expected)
    torch.testing.assert_close(Connector(3, tokens=True)(x), x)


def test_hidden_states_of_another_width_get_a_linear_map() -> None:
    objective = Objective(
        'cos',
        dict(type='HiddenCosineLoss'),
        dict(student=['h'], teacher=['h']),
        on='h',
        connectors=dict(student='auto'),
    )
    record = dict(
        student=dict(h=torch.randn(2, 4, 3, requires_grad=True)),
        teacher=dict(h=torch.randn(2, 4, 5)),
    )
    assert objective.fit(record) == ['cos: student (4, 3) -> (4, 5) by 1x1 convolution']
    connected = objective.connectors['student'](record['student']['h'])
    torch.testing.assert_close(
        objective(record)['cos.loss'], hidden_cosine(connected, record['teacher']['h'])
    )
