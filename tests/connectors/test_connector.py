"""The connector: convolutions, their norms and a bilinear resize, against slow loops."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks_norm
from helpers.processes import ranks
from helpers.runs import model_of, run_config, train
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.connectors import BatchNorm, Connector
from mmkd.distiller.objectives.objective import Objective
from mmkd.losses import feature_matching, hidden_cosine
from mmkd.structures.batch import Batch
from mmkd.where import Where


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


def covered(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Slow loop of the means of what each new place covers."""
    out = torch.zeros(*x.shape[:2], *size)
    for places in product(*map(range, size)):
        box = [
            slice(k * old // new, -(-(k + 1) * old // new))
            for k, old, new in zip(places, x.shape[2:], size, strict=True)
        ]
        out[(..., *places)] = x[(..., *box)].mean((2, 3))
    return out


@pytest.mark.parametrize('size', [(3, 4), (2, 9), (1, 1), (4, 16)])
def test_a_map_that_shrinks_by_more_than_two_loses_no_place(size: tuple[int, int]) -> None:
    """Bilinear reads four places for each that it makes, and would drop the others."""
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    made = Connector(3, resize=True)(x, size=size)
    torch.testing.assert_close(made, covered(x, size))
    (slope,) = torch.autograd.grad(made.sum(), x)
    assert bool((slope > 0).all())


def test_at_two_bilinear_and_means_are_the_same() -> None:
    x = torch.randn(2, 3, 8, 4)
    torch.testing.assert_close(Connector(3, resize=True)(x, size=(4, 2)), covered(x, (4, 2)))


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


# ---------------------------------------------------------------------- kinds


def step(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer makes of a map, by its definition."""
    if name == 'relu':
        return x.where(x > 0, 0)
    if name == 'bn':
        flat = x.transpose(0, 1).flatten(1)
        mean, variance = (v.view(1, -1, 1, 1) for v in (flat.mean(1), flat.var(1, correction=0)))
        return (x - mean) / (variance + 1e-5).sqrt()  # γ = 1 and β = 0 at the start
    kernel = layer.weight.shape[-1]
    patches = F.unfold(x, kernel, padding=kernel // 2)
    out = layer.weight.flatten(1) @ patches + (0 if layer.bias is None else layer.bias[:, None])
    return out.view(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize(
    'kind',
    ['conv', 'conv-bn', 'conv-bn-relu', 'conv-relu-conv', 'conv-relu-conv-relu-conv'],
)
@pytest.mark.parametrize('kernel', [1, 3])
def test_a_kind_is_its_layers_in_order(kind: str, kernel: int) -> None:
    connector = Connector(3, 5, kind=kind, kernel_size=kernel)
    x = expected = torch.randn(2, 3, 4, 6)
    layers = [connector.conv] if kind == 'conv' else connector.conv
    for name, layer in zip(kind.split('-'), layers, strict=True):
        expected = step(name, layer, expected)
    torch.testing.assert_close(connector(x), expected)
    assert connector(x).shape == (2, 5, 4, 6)


def test_biases_are_where_no_norm_follows() -> None:
    def biases(**options: Any) -> list[bool]:
        convs = [m for m in Connector(2, 3, **options).modules() if isinstance(m, nn.Conv2d)]
        return [conv.bias is not None for conv in convs]

    assert biases() == [True]
    assert biases(kind='conv-bn') == [False]
    assert biases(kind='conv-relu-conv') == [True, True]
    assert biases(kind='conv-relu-conv-relu-conv', bias=False) == [False] * 3
    assert biases(kind='conv-bn', bias=True) == [True]


def test_kinds_of_vectors_and_tokens_look_at_each_alone() -> None:
    x = torch.randn(3, 4, 2)
    tokens = Connector(2, 5, tokens=True, kind='conv-relu-conv')
    first, _, last = tokens.conv
    expected = F.linear(x, first.weight.flatten(1), first.bias).relu()
    expected = F.linear(expected, last.weight.flatten(1), last.bias)
    torch.testing.assert_close(tokens(x), expected)
    vectors = Connector(2, 5, kind='conv-relu-conv')
    vectors.load_state_dict(tokens.state_dict())
    torch.testing.assert_close(vectors(x.flatten(0, 1)), expected.flatten(0, 1))


@pytest.mark.bad_input
@pytest.mark.parametrize('kind', ['', 'bn-conv', 'conv-gelu', 'conv_bn', 7])
def test_what_is_no_kind(kind: Any) -> None:
    with pytest.raises(ValueError, match='kind must be layers of .* a convolution first, got .*Me'):
        Connector(2, 3, kind=kind)


@pytest.mark.bad_input
def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match='kernel_size must be odd, got 2: .* Mend: 3'):
        Connector(2, 3, kernel_size=2)
    with pytest.raises(ValueError, match='kernel_size must be a whole number of at least 1, got 0'):
        Connector(2, 3, kernel_size=0)


# ---------------------------------------------------------------------- 'auto' of a kind


def maps(student: int = 4, teacher: int = 6, side: int = 5) -> dict:
    return dict(
        student=dict(feat=torch.randn(2, student, 5, 5, requires_grad=True)),
        teacher=dict(feat=torch.randn(2, teacher, side, side)),
    )


def objective(connector: Any, loss: str = 'FeatureMatchingLoss', side: str = 'student') -> Any:
    known = dict(student=['feat'], teacher=['feat'])
    return Objective('hint', dict(type=loss), known, on='feat', connectors={side: connector})


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('auto', '1x1 convolution'),
        ('auto:conv', '1x1 convolution'),
        ('auto:conv-bn-relu', 'conv-bn-relu of 1x1'),
        (dict(type='auto', kind='conv-bn-relu', kernel_size=3), 'conv-bn-relu of 3x3'),
        (dict(type='auto', kernel_size=3, bias=False), '3x3 convolution'),
    ],
)
def test_channels_are_found_for_every_kind(given: Any, said: str) -> None:
    one, record = objective(given), maps()
    assert one.fit(record) == [f'hint: student (4, 5, 5) -> (6, 5, 5) by {said}']
    connected = one.connectors['student'](record['student']['feat'])
    expected = feature_matching(connected, record['teacher']['feat'])
    torch.testing.assert_close(one(record)['hint.loss'], expected)
    expected.backward()
    assert all((p.grad != 0).any() for p in one.connectors.parameters() if p.dim() > 1)


def test_what_is_named_is_there_though_channels_agree() -> None:
    """And in 'auto', or where always=False, nothing is."""
    for given, weights in (
        ('auto', 0),
        ('auto:conv-bn', 3),
        (dict(type='auto', kind='conv-bn', always=False), 0),
    ):
        one = objective(given)
        one.fit(maps(4, 4))
        assert len([*one.connectors.parameters()]) == weights
    one = objective('auto:conv-bn')
    assert one.fit(maps(4, 4, side=9)) == [
        'hint: student (4, 5, 5) -> (4, 9, 9) by conv-bn of 1x1 and bilinear resize'
    ]


class Even(Where):
    """Weighs every position alike."""

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        return torch.ones_like(student[:, 0])


@pytest.mark.parametrize('where', [None, Even()])
def test_fitting_leaves_no_trace_in_running_statistics(where: Where | None) -> None:
    """Though a loss that builds itself, or a weight, reads what the connector makes."""
    one = Objective(
        'hint',
        dict(type='VariationalInformationLoss'),
        dict(student=['feat'], teacher=['feat']),
        on='feat',
        connectors=dict(student='auto:conv-bn'),
        where=where,
    )
    record = dict(
        batch=Batch(torch.zeros(1, 3, 8, 8)),
        student=dict(feat=torch.randn(1, 4, 1, 1, requires_grad=True)),
        teacher=dict(feat=torch.randn(1, 6, 1, 1)),
    )
    one.fit(record)
    norm = one.connectors['student'].conv[1]
    assert norm.num_batches_tracked == 0
    assert norm.training
    assert one.loss.raw.shape == (6,)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('given', 'loss', 'side', 'message'),
    [
        ('auto:bn', 'FeatureMatchingLoss', 'student', 'kind must be layers of'),
        (
            dict(type='auto', kernel=3),
            'FeatureMatchingLoss',
            'student',
            "unknown key 'kernel'; did",
        ),
        (dict(type='auto', kernel_size=4), 'FeatureMatchingLoss', 'student', 'must be odd, got 4'),
        ('auto:conv', 'AttentionTransferLoss', 'student', 'AttentionTransferLoss takes any chan'),
        ('auto:conv-bn', 'PixelWiseKLLoss', 'student', 'PixelWiseKLLoss compares classes'),
    ],
)
def test_what_auto_refuses(given: Any, loss: str, side: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"objective 'hint'.*{message}"):
        objective(given, loss, side)


@pytest.mark.bad_input
def test_what_auto_refuses_by_shape() -> None:
    with pytest.raises(ValueError, match='a connector of the teacher would never be trained'):
        objective('auto:conv-bn', side='teacher').fit(maps())
    vectors = dict(
        student=dict(feat=torch.randn(2, 4, requires_grad=True)),
        teacher=dict(feat=torch.randn(2, 6)),
    )
    with pytest.raises(
        ValueError, match='has no neighbours for a kernel of 3. Mend: kernel_size=1'
    ):
        objective(dict(type='auto', kernel_size=3)).fit(vectors)


# ---------------------------------------------------------------------- the norm


def test_one_value_of_a_channel_has_no_variance() -> None:
    """It passes as it is in training; where torch would refuse it, nothing is remembered."""
    norm, x = BatchNorm(3), torch.randn(1, 3, 1, 1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    assert torch.equal(norm(x), x)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    norm.running_mean.fill_(1.0)
    torch.testing.assert_close(norm.eval()(x), (x - 1) / (1 + norm.eps) ** 0.5)


def test_the_norm_of_one_rank_is_that_of_torch() -> None:
    """Bit for bit: values, gradients and running statistics, and when it predicts."""
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for _ in range(2):
        x = (3 * torch.randn(2, 3, 4, 5) + 1).requires_grad_()
        for one in (ours, theirs):
            one(x).square().mean().backward()
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.slow
def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    """Values, gradients that data parallelism averages, running statistics."""
    ranks(two_ranks_norm.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
    model = two_ranks_norm.layers()
    x = two_ranks_norm.batch().requires_grad_()
    expected = two_ranks_norm.loss(model(x))
    expected.backward()
    assert sum(one['value'] for one in found) / 2 == pytest.approx(expected.item(), rel=1e-12)
    together = torch.cat([torch.tensor(one['input'], dtype=torch.float64) for one in found]) / 2
    torch.testing.assert_close(together, x.grad, rtol=1e-9, atol=1e-14)
    for one in found:
        for got, parameter in zip(one['gradients'], model.parameters(), strict=True):
            got = torch.tensor(got, dtype=torch.float64)
            torch.testing.assert_close(got, parameter.grad, rtol=1e-9, atol=1e-14)
        for got, buffer in zip(one['buffers'], model.buffers(), strict=True):
            got = torch.tensor(got, dtype=torch.float64)
            torch.testing.assert_close(got, buffer.double(), rtol=1e-12, atol=0)
    assert found[0]['buffers'] == found[1]['buffers']


def test_a_norm_is_in_the_checkpoint_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """It is trained with the student, and no part of what is exported."""
    hint = dict(
        loss=dict(type='FeatureMatchingLoss'),
        on='feat',
        connectors=dict(student='auto:conv-bn-relu'),
    )

    def config(**changes: Any) -> Any:
        model = model_of(critic=False, objectives=dict(hint=hint))
        return run_config(tmp_path, model, **changes)

    train(config(name='straight'))
    train(config(max_iters=2))
    train(config(), resume=True)
    straight, resumed, early = (
        torch.load(tmp_path / path, weights_only=False)['state_dict']
        for path in ('straight/iter_4.pth', 'run/iter_4.pth', 'run/iter_2.pth')
    )
    assert list(straight) == list(resumed)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    norm = 'objectives.hint.connectors.student.conv.1.'
    assert resumed[norm + 'num_batches_tracked'] == 4
    for key in ('weight', 'running_mean'):
        assert not torch.equal(resumed[norm + key], early[norm + key])
    student = torch.load(tmp_path / 'run/student/iter_4.pth', weights_only=False)['state_dict']
    assert {f'students.student.{key}' for key in student} == {
        key for key in resumed if not key.startswith('objectives.')
    }
