"""Queries and keys of mmpretrain's and timm's ViT, which their fused kernels hide."""

from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.distiller.taps.taps import Taps

pytestmark = pytest.mark.zoo


def of_mmpretrain(width: int = 192) -> nn.Module:
    return MODELS.build(vit(width)).backbone


def vit(width: int = 192) -> dict[str, Any]:
    """Return a ViT of two layers and two heads, for three classes."""
    arch = dict(embed_dims=width, num_layers=2, num_heads=2, feedforward_channels=32)
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3
        ),
        backbone=dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=32, patch_size=8),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=width),
    )


def of_timm(**kwargs: Any) -> nn.Module:
    import timm

    return timm.create_model(
        'vit_tiny_patch16_224', img_size=32, patch_size=8, depth=2, num_classes=3, **kwargs
    )


def slow_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend token by token; (N, heads, tokens, d) -> (N, tokens, heads·d)."""
    n, heads, tokens, width = query.shape
    out = torch.zeros(n, tokens, heads, width)
    for image in range(n):
        for head in range(heads):
            for token in range(tokens):
                scores = (key[image, head] * query[image, head, token]).sum(-1) / width**0.5
                shares = scores.exp() / scores.exp().sum()
                out[image, token, head] = (shares[:, None] * value[image, head]).sum(0)
    return out.flatten(2)


@pytest.mark.parametrize('library', ['mmpretrain', 'timm', 'timm with norms'])
def test_they_attend_as_the_module_does(library: str) -> None:
    if library == 'mmpretrain':
        model, path = of_mmpretrain(), 'layers.1.attn'
    else:
        norms = dict(qk_norm=True) if 'norms' in library else {}
        model, path = of_timm(**norms), 'blocks.1.attn'
    taps = {part: f'{path}:{part}' for part in ('query', 'key')} | dict(
        qkv=f'{path}.qkv', mixed=f'{path}.proj:input'
    )
    model.eval()  # mmpretrain's returns None
    recorder = Taps(model, taps)
    with torch.no_grad(), recorder.recording() as found:
        model(torch.randn(2, 3, 32, 32))
    seen = recorder.read(found)
    value = seen['qkv'].chunk(3, -1)[2].unflatten(-1, (seen['query'].shape[1], -1)).transpose(1, 2)
    expected = slow_attention(seen['query'], seen['key'], value)
    torch.testing.assert_close(seen['mixed'], expected, atol=1e-5, rtol=1e-4)


def test_attention_kl_of_mmpretrains_vit() -> None:
    """Two that are alike give 0, others the mean over images, heads and tokens of their KL."""
    names = dict(q='backbone.layers.1.attn:query', k='backbone.layers.1.attn:key')
    reads = dict(
        student='student.q', teacher='teacher.q', student_key='student.k', teacher_key='teacher.k'
    )
    model = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=vit(16)),
            teacher=dict(model=vit(32), allow_untrained=True),
            taps=names,
            objectives=dict(attention=dict(loss=dict(type='AttentionKLLoss'), reads=reads)),
        )
    )
    from mmpretrain.structures import DataSample

    assert model.student.backbone.layers[1].attn.num_heads == 2
    images = [torch.randint(0, 256, (3, 32, 32)).byte() for _ in range(2)]
    data = dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    record, _ = model.observe(**model.data_preprocessor(data, True))
    rows = []
    for who in ('student', 'teacher'):
        query, key = record[who]['q'].double(), record[who]['k'].double()
        rows.append((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1))
    expected = (rows[1] * (rows[1] / rows[0]).log()).sum(-1).mean()
    loss = model.compare(['attention'], record)['attention.loss']
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss > 1e-6
    loss.backward()
    assert model.student.backbone.layers[1].attn.qkv.weight.grad[:32].abs().sum() > 0
