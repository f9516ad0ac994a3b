"""Taps: every form of the grammar by value, every refusal by message, and no hook left behind."""

import re

import pytest
import torch
from helpers import tiny
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.distiller.taps.tap_path import TapPath
from mmkd.distiller.taps.tappable import is_loss, tappable
from mmkd.distiller.taps.taps import Taps
from mmkd.losses import HiddenCosineLoss
from mmkd.losses.relations.attention_kl import attention_rows


class Toy(nn.Module):
    """Modules of every kind of input, output and call."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Scale(2.0), Scale(3.0)])
        self.named = nn.ModuleDict(dict(x=Scale(1.0)))
        self.pyramid, self.table, self.mixer = Pyramid(), Table(), Mixer()
        self.shared = Scale(5.0)
        self.alias = self.shared
        self.unused = Scale(7.0)
        self.box = Box()
        self.chain = nn.Sequential(Scale(1.0), Scale(1.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.stages[0](x))
        levels = self.pyramid(x)
        for level in levels:
            self.shared(level)
        self.table(levels)
        self.box(x)
        return self.mixer(x, skip=levels[1], scale=2.0)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Pyramid(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, 10 * x, [100 * x, {'deep': 1000 * x}]

    def __len__(self) -> int:
        return 1


class Table(nn.Module):
    def forward(self, levels: list) -> dict:
        return {'fine': levels[0], 'all': levels, 'nothing': None}


class Mixer(nn.Module):
    def forward(self, x: Tensor, *, skip: Tensor, scale: float) -> Tensor:
        return x + scale * skip


class Box(nn.Module):
    def forward(self, x: Tensor) -> object:
        return object()


class Loop(Toy):
    """The pyramid's last level is no tensor, so only two levels go through ``shared``."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.stages[0](x))
        levels = self.pyramid(x)
        for level in levels[:2]:
            self.shared(level)
        self.table(levels)
        self.box(x)
        self.chain(x)
        return self.mixer(x, skip=levels[1], scale=2.0)


def see(path: str, model: nn.Module | None = None, x: Tensor | None = None) -> Tensor:
    model = Loop() if model is None else model
    taps = Taps(model, dict(t=path), 'student')
    with taps.recording() as seen:
        model(torch.ones(1) if x is None else x)
    assert hooks(model) == 0
    return taps.read(seen)['t']


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('stages.0', 2.0),  # a module's output
        ('stages.1:output', 6.0),
        ('stages.1:input', 2.0),
        ('stages.1:input[0]', 2.0),
        ('pyramid[1]', 60.0),
        ('pyramid:output[1]', 60.0),
        ('pyramid[-1][0]', 600.0),  # a chain of indices
        ('pyramid[2][1][deep]', 6000.0),
        ('table[fine]', 6.0),
        ('table:output[all][1]', 60.0),
        ('table:input[0][1]', 60.0),
        ('table:input[levels][1]', 60.0),  # named, although it was passed by position
        ('mixer:input', 6.0),
        ('mixer:input[x]', 6.0),
        ('mixer:input[skip]', 60.0),
        ('mixer', 126.0),
        ('shared#0', 30.0),  # the module ran twice
        ('shared#1', 300.0),
        ('shared#1:input', 60.0),
        ('alias#0', 30.0),  # one module, two names
    ],
)
def test_every_form_reads_its_value(path: str, value: float) -> None:
    assert see(path).item() == value


def test_all_calls_come_as_a_list() -> None:
    assert [t.item() for t in see('shared#*')] == [30.0, 300.0]
    assert [t.item() for t in see('shared#*:input')] == [6.0, 60.0]
    assert [t.item() for t in see('stages.0#*')] == [2.0]


def test_keyword_only_input_is_the_first_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Mixer()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x=2 * x, skip=x, scale=1.0)

    assert see('inner:input', Named()).item() == 2.0
    assert see('inner:input[skip]', Named()).item() == 1.0


def test_parse_round_trip() -> None:
    path = TapPath.parse('head.conv#1:input[x][-2]')
    assert (path.module, path.call, path.side, path.index) == ('head.conv', '1', 'input', ('x', -2))
    assert TapPath.parse('a') == TapPath('a', 'a', None, 'output', ())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'text',
    [
        '',
        'a b',
        'conv:outputs',
        'conv[',
        'conv[1',
        'conv[a.b]',
        ':input',
        '[1]',
        'conv#x',
        'conv:input#1',
        'conv\n',
        None,
        3,
    ],
)
def test_grammar_error_shows_examples(text: object) -> None:
    with pytest.raises(
        ValueError, match=r"a tap is module\[#call\].*for instance 'decode_head.conv_seg'.*got"
    ):
        TapPath.parse(text)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('path', 'error', 'message'),
    [
        # [i] on a Tensor would take a sample of the batch
        (
            'stages.0[1]',
            TypeError,
            r"tap 't' of student \('stages.0\[1\]'\): the output is a Tensor of shape \(1,\), and "
            r"\[1\] would take a sample of the batch. Mend: 'stages.0' for the whole tensor",
        ),
        (
            'chain[-1]',
            TypeError,
            r"Mend: 'chain.1' for a child module, 'chain' for the whole tensor",
        ),
        ('chain[-3]', TypeError, r"sample of the batch. Mend: 'chain' for the whole tensor"),
        (
            'stages.1:input[0][0]',
            TypeError,
            r'the input is a Tensor of shape \(1,\), and \[0\] would take a sample',
        ),
        (
            'pyramid',
            TypeError,
            r"the output is a tuple of 3, not a Tensor. Mend: choose one with 'pyramid\[i\]'",
        ),
        (
            'table',
            TypeError,
            r"the output is a dict of 3, not a Tensor. Mend: choose one with 'table\[i\]'",
        ),
        (
            'table:input',
            TypeError,
            r'the input is a tuple of 3, not a Tensor. Mend: choose one with '
            r"'table:input\[0\]\[i\]'",
        ),
        ('table[nothing]', TypeError, 'the output is a NoneType, not a Tensor'),
        ('table[nothing][0]', TypeError, r'index 1 \[0\] is not in a NoneType'),
        ('box', TypeError, 'the output is a object, not a Tensor'),
        ('pyramid[7]', IndexError, r'index 0 \[7\] is not in a tuple of 3 items'),
        ('pyramid[fine]', TypeError, r'index 0 \[fine\] is not in a tuple of 3 items'),
        (
            'table[fin]',
            KeyError,
            r"index 0 \[fin\] is not in a dict of \['fine', 'all', 'nothing'\]",
        ),
        (
            'mixer:input[skipp]',
            KeyError,
            r"index 0 \[skipp\] is not in a dict of \['x', 'skip', 'scale'\]",
        ),
        (
            'shared',
            RuntimeError,
            r"tap 't' of student \('shared'\) ran 2 times in one forward. Mend: 'shared#0' … "
            r"'shared#1' for one call, 'shared#\*' for the list",
        ),
        ('shared#2', RuntimeError, 'the module ran 2 times, so #2 is not there'),
        (
            'stages',
            RuntimeError,
            r'never ran: a ModuleList is a container and has no forward. Mend: tap one of '
            r"\['stages.0', 'stages.1'\]",
        ),
        (
            'stages[-1]',
            RuntimeError,
            r"'stages\[-1\]'\) never ran: a ModuleList is a container and has no forward. Mend: "
            r"'stages.1'$",
        ),
        ('stages[2]', RuntimeError, r"has no forward. Mend: tap one of \['stages.0', 'stages.1'\]"),
        (
            'named[x]',
            RuntimeError,
            r"a ModuleDict is a container and has no forward. Mend: 'named.x'$",
        ),
        (
            'named',
            RuntimeError,
            r"a ModuleDict is a container and has no forward. Mend: tap one of \['named.x'\]",
        ),
        (
            'unused',
            RuntimeError,
            "never ran in this forward. A teacher runs mode='tensor', which leaves out auxiliary "
            'heads and losses',
        ),
    ],
)
def test_refusals(path: str, error: type[Exception], message: str) -> None:
    model = Loop()
    with pytest.raises(error) as raised:
        see(path, model)
    text = raised.value.args[0]
    assert re.search(message, text), text
    assert hooks(model) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('path', 'near'),
    [
        ('decode_head.conv_segs', "did you mean 'decode_head.conv_seg'"),
        ('decode_haed.bottleneck', "did you mean 'decode_head.bottleneck'"),
        ('backbone.layer5', "did you mean 'backbone.layer"),
    ],
)
def test_misspelt_module_names_the_nearest(path: str, near: str) -> None:
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    with pytest.raises(KeyError) as raised:
        Taps(model, dict(logits=path), "teacher 'big'")
    message = raised.value.args[0]
    assert message.startswith(
        f"tap 'logits' of teacher 'big' ('{path}'): teacher 'big' has no module '{path}'"
    )
    assert near in message


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('path', 'mend'),
    [
        ('decode_head[-1].conv_seg', 'decode_head.1.conv_seg'),
        ('decode_head[0].conv_seg#1:input', 'decode_head.0.conv_seg#1:input'),
        ('decode_head[5].conv_seg', None),
        ('decode_head[-1].conv_sag', None),
    ],
)
def test_modules_of_a_list_are_named_by_dots(path: str, mend: str | None) -> None:
    model = nn.ModuleDict(
        dict(
            decode_head=nn.ModuleList(
                nn.ModuleDict(dict(conv_seg=nn.Conv2d(2, 3, 1))) for _ in range(2)
            )
        )
    )
    with pytest.raises(
        ValueError,
        match=r"^tap 't' of teacher: a tap is module.*Modules of a list are "
        r"'decode_head.1.conv_seg'",
    ) as raised:
        Taps(model, dict(t=path), 'teacher')
    assert raised.value.args[0].endswith(f"Mend: '{mend}'") is (mend is not None)
    if mend:
        assert Taps(model, dict(t=mend)).paths['t'].text == mend


class Detector(nn.Module):
    """A head with losses of several kinds, one a list and one with parts."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_head = nn.ModuleDict(
            dict(
                loss_cls=MODELS.build(dict(type='FocalLoss', _scope_='mmseg')),
                loss_bbox=nn.SmoothL1Loss(),
                loss_many=nn.ModuleList([nn.MSELoss(), nn.ModuleList([nn.L1Loss()])]),
                loss_kd=HiddenCosineLoss(),
                convs=nn.ModuleList([nn.Conv2d(1, 1, 1)]),
                conv_cls=nn.Conv2d(1, 1, 1),
            )
        )
        self.bbox_head['loss_kd'].part = nn.Linear(1, 1)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('path', 'loss', 'kind'),
    [
        ('bbox_head.loss_cls', 'bbox_head.loss_cls', 'FocalLoss'),
        ('bbox_head.loss_cls:input[0]', 'bbox_head.loss_cls', 'FocalLoss'),
        ('bbox_head.loss_bbox', 'bbox_head.loss_bbox', 'SmoothL1Loss'),
        ('bbox_head.loss_many', 'bbox_head.loss_many', 'ModuleList'),
        ('bbox_head.loss_many.1.0', 'bbox_head.loss_many', 'ModuleList'),
        ('bbox_head.loss_kd.part', 'bbox_head.loss_kd', 'HiddenCosineLoss'),
    ],
)
def test_losses_are_no_taps(path: str, loss: str, kind: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"tap 't' of student \('{re.escape(path)}'\): '{loss}' is a loss "
        rf'\({kind}\): it gives a number, and nothing that could be compared. Mend: '
        r"tap what comes before it, one of \['bbox_head.conv_cls'\]",
    ):
        Taps(Detector(), dict(t=path), 'student')


@pytest.mark.bad_input
def test_losses_and_accuracy_of_mmseg_are_no_taps_nor_suggested() -> None:
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    with pytest.raises(
        ValueError,
        match=r"'decode_head.loss_decode' is a loss \(CrossEntropyLoss\).*Mend: tap "
        r"what comes before it, one of \['decode_head.conv_seg', 'decode_head.psp",
    ):
        Taps(model, dict(t='decode_head.loss_decode'))
    for path in (
        'decode_head.loss_dekode',
        'decode_head.loss',
        'bbox_head.loss_decode',
        'decode_head.losses',
    ):
        with pytest.raises(KeyError) as raised:
            Taps(model, dict(t=path))
        suggested = raised.value.args[0].partition('did you mean')[2]
        assert 'loss' not in suggested, suggested
    with pytest.raises(RuntimeError, match='never ran') as unseen:
        see('auxiliary_head', model.eval(), torch.randn(1, 3, 32, 32))
    assert 'loss_decode' not in unseen.value.args[0]
    assert 'auxiliary_head.conv_seg' in unseen.value.args[0]


def test_what_is_a_loss() -> None:
    from mmseg.models.losses.accuracy import Accuracy

    assert is_loss(Accuracy())
    assert not is_loss(nn.ModuleList())  # an empty list is no list of losses
    assert not is_loss(nn.ModuleList([nn.Linear(1, 1), nn.MSELoss()]))
    assert not is_loss(nn.Sequential(nn.MSELoss()))
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    found = tappable(dict(model.named_modules()))
    assert 'decode_head.conv_seg' in found
    assert 'decode_head.psp_modules' in found, 'a list with a forward'
    assert not [name for name in found if 'loss' in name]


@pytest.mark.bad_input
def test_changed_in_place_after_reading() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 4, 4)
    for path in ('1', '2:input'):
        with pytest.raises(
            RuntimeError,
            match=rf"tap 't' of student \('{path}'\) was changed in place after it was "
            r'read \(an in-place ReLU or add follows it\). Mend: tap the module',
        ):
            see(path, model, x)
    torch.testing.assert_close(
        see('2', model, x), see('1', model[:2], x).relu()
    )  # the mend that the message names
    torch.testing.assert_close(see('1:input', model, x), model[0](x))
    model[2].inplace = False
    torch.testing.assert_close(see('1', model, x).relu(), see('2', model, x))


@pytest.mark.bad_input
def test_hooks_go_when_the_forward_raises() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))  # the second one does not fit
    taps = Taps(model, dict(a='0', b='1:input'))
    with pytest.raises(RuntimeError, match='mat1 and mat2'), taps.recording():
        model(torch.ones(1, 2))
    assert hooks(model) == 0
    with taps.recording():
        assert hooks(model) == 2
    assert hooks(model) == 0


@pytest.mark.bad_input
def test_a_module_that_vanished_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    taps = Taps(model, dict(a='0', b='1'))
    del model[1]
    with (
        pytest.raises(AttributeError, match="no attribute '1'|has no attribute `1`"),
        taps.recording(),
    ):
        pass
    assert hooks(model) == 0


@pytest.mark.bad_input
def test_a_tap_that_cannot_be_hooked_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    taps = Taps(model, dict(a='0', b='1:query'))
    with pytest.raises(TypeError), taps.recording():
        pass
    assert hooks(model) == 0


def test_modules_are_looked_up_anew_after_revert_sync_batchnorm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4), nn.Sigmoid())
    taps = Taps(model, dict(norm='1'))
    stale = model[1]
    model = revert_sync_batchnorm(model)
    assert model[1] is not stale
    x = torch.randn(2, 3, 4, 4)
    with taps.recording() as seen:
        model(x)
    torch.testing.assert_close(taps.read(seen)['norm'], nn.BatchNorm2d(4)(model[0](x)))


def test_gradient_flows_through_a_tap() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    see('0', model, torch.tensor([[1.0, 2.0]])).sum().backward()
    assert model[0].weight.grad.tolist() == [[1.0, 2.0]] * 3
    assert model[1].weight.grad is None


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('call', ['keywords', 'positions', 'without weights'])
def test_multihead_attention_gives_its_heads(call: str, training: bool) -> None:
    """By itself nn.MultiheadAttention averages the heads, or computes no weights at all."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True).train(training)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = attention

        def forward(self, x: Tensor) -> Tensor:
            if call == 'keywords':
                return self.attn(query=x, key=x, value=x)[0]
            if call == 'positions':
                return self.attn(x, x, x, None, False)[0]
            return self.attn(x, x, x, need_weights=False)[0]

    block, x = Block(), torch.randn(3, 5, 8)
    query, key = (
        x @ attention.in_proj_weight[i : i + 8].T + attention.in_proj_bias[i : i + 8]
        for i in (0, 8)
    )
    heads = [
        (query[..., h : h + 4] @ key[..., h : h + 4].transpose(1, 2) / 4**0.5).softmax(-1)
        for h in (0, 4)
    ]
    plain = block(x)
    torch.testing.assert_close(
        see('attn:output[1]', block, x), torch.stack(heads, 1)
    )  # (N, h, Q, K)
    torch.testing.assert_close(see('attn[0]', block, x), plain)
    torch.testing.assert_close(see('attn:input[key]', block, x), x)
    torch.testing.assert_close(block(x), plain)


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('width', [8, 6])
def test_queries_and_keys_give_the_attention_that_a_fused_kernel_hides(
    batch_first: bool, width: int
) -> None:
    """Also where keys have another width, and with dropout, which they come before."""
    attention = nn.MultiheadAttention(
        8, 2, kdim=width, vdim=width, batch_first=batch_first, dropout=0.5, bias=width == 8
    )
    x, y = torch.randn(3, 5, 8), torch.randn(3, 4, width)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = attention

        def forward(self, x: Tensor) -> Tensor:
            args = (x, y, y) if batch_first else [v.transpose(0, 1) for v in (x, y, y)]
            return self.attn(*args, need_weights=False)[0]

    query, key = see('attn:query', Block(), x), see('attn:key', Block(), x)
    assert (query.shape, key.shape) == ((3, 2, 5, 4), (3, 2, 4, 4))
    args = (x, y, y) if batch_first else [v.transpose(0, 1) for v in (x, y, y)]
    expected = attention.eval()(*args, average_attn_weights=False)[1]
    torch.testing.assert_close(attention_rows(query, key), expected)
    query.sum().backward()
    weight = attention.in_proj_weight if width == 8 else attention.q_proj_weight
    assert weight.grad[:8].abs().sum() > 0


class FusedQKV(nn.Module):
    """Attention as mmpretrain's and timm's ViT write it; ``norm`` is timm's of queries and keys."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.embed_dims = 2, 8
        self.qkv = nn.Linear(8, 24)
        if norm:
            self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        if hasattr(self, 'q_norm'):
            q, k = self.q_norm(q), self.k_norm(k)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(n, tokens, 8)


def fused_qkv(norm: bool = False) -> nn.Module:
    """Return such attention under the name by which a library's own is known."""
    name = 'timm.layers.attention' if norm else 'mmpretrain.models.utils.attention'
    kind = 'Attention' if norm else 'MultiheadAttention'
    known = type(kind, (FusedQKV,), dict(__module__=name, __qualname__=kind))
    return nn.ModuleDict(dict(attn=known(norm)))


@pytest.mark.parametrize('norm', [False, True])
def test_queries_and_keys_of_one_layer_qkv(norm: bool) -> None:
    """A slow loop over images, heads and tokens attends by them, and meets what the module says."""
    model, x = fused_qkv(norm), torch.randn(3, 5, 8)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = model.attn

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x)

    query, key = see('attn:query', Block(), x), see('attn:key', Block(), x)
    assert (query.shape, key.shape) == ((3, 2, 5, 4), (3, 2, 5, 4))
    values = (x @ model.attn.qkv.weight[16:].T + model.attn.qkv.bias[16:]).unflatten(-1, (2, 4))
    expected = torch.zeros(3, 5, 8)
    for image in range(3):
        for head in range(2):
            for token in range(5):
                scores = [query[image, head, token] @ key[image, head, j] / 2 for j in range(5)]
                shares = torch.stack(scores).softmax(0)
                for j in range(5):
                    own = slice(4 * head, 4 * head + 4)
                    expected[image, token, own] += shares[j] * values[image, j, head]
    torch.testing.assert_close(model.attn(x), expected)
    key[..., 0].sum().backward()
    grad = model.attn.qkv.weight.grad.abs()
    assert grad[:8].sum() == 0
    assert grad[8:16].sum() > 0.1


@pytest.mark.bad_input
def test_attention_that_adds_more_than_queries_and_keys_is_refused() -> None:
    unknown = nn.ModuleDict(dict(attn=FusedQKV()))
    with (
        pytest.raises(
            TypeError, match='FusedQKV is not known to attend by its queries and keys al'
        ),
        Taps(unknown, dict(q='attn:query')).recording(),
    ):
        pass
    known = fused_qkv()
    with (
        pytest.raises(ValueError, match='has an attn_mask, so its rows are not .*Mend: hidden sta'),
        Taps(known, dict(q='attn:query')).recording(),
    ):
        known.attn(torch.zeros(1, 5, 8), attn_mask=torch.zeros(5, 5))


@pytest.mark.bad_input
def test_attention_after_dropout_is_refused() -> None:
    model = nn.ModuleDict(dict(attn=nn.MultiheadAttention(8, 2, dropout=0.1)))
    with (
        pytest.raises(
            ValueError, match="has an attn_mask, so its rows are not those of its queries.*':output"
        ),
        Taps(model, dict(q='attn:query')).recording(),
    ):
        model.attn(*[torch.zeros(3, 1, 8)] * 3, attn_mask=torch.zeros(3, 3))
    with (
        pytest.raises(
            ValueError,
            match="'attn:output\\[1\\]'.*after dropout of 0.1.*Mend: ':query' and ':key'",
        ),
        Taps(model, dict(a='attn:output[1]')).recording(),
    ):
        pass
    with Taps(model.eval(), dict(a='attn:output[1]')).recording():  # a teacher's is off
        pass


@pytest.mark.bad_input
def test_heads_of_what_has_none() -> None:
    with pytest.raises(
        TypeError, match="'0:query'.*a Linear has no heads to read.*Mend: tap the linear layers"
    ):
        see('0:query', nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))


@pytest.mark.bad_input
def test_a_kernel_that_returns_no_attention() -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x, None

    with pytest.raises(
        TypeError, match="'0:output\\[1\\]'.*A fused attention kernel.*attn_implementation='eager'"
    ):
        see('0:output[1]', nn.Sequential(Fused()), torch.zeros(1))


def test_segformer_attention_has_heads() -> None:
    model = MODELS.build(
        dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_heads=[1, 2],
            num_layers=[1, 1],
            num_stages=2,
            patch_sizes=[7, 3],
            strides=[4, 2],
            sr_ratios=[2, 1],
            out_indices=(0, 1),
            _scope_='mmseg',
        )
    )
    attention = see('layers.1.1.0.attn.attn:output[1]', model, torch.randn(2, 3, 32, 32))
    assert attention.shape == (2, 2, 16, 16)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 16))


@pytest.mark.bad_input
def test_container_with_a_forward_is_tapped_like_any_module() -> None:
    """PPM of PSPHead is a ModuleList that has a forward."""
    model = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'}).eval()
    x = torch.randn(1, 3, 32, 32)
    pooled = see('decode_head.psp_modules[0]', model, x)
    mean = model.backbone(x)[3].mean((2, 3), keepdim=True)
    torch.testing.assert_close(pooled, model.decode_head.psp_modules[0][1](mean).expand(1, 8, 4, 4))
    with pytest.raises(
        RuntimeError,
        match="'decode_head'.*mmseg calls a head's forward past its hooks. Mend: tap a "
        "module that this forward runs, for instance one of .'decode_head.",
    ):
        see('decode_head', model, x)
