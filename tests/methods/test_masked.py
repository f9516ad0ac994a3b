"""Presets of masks and regions have the value of the official formula and weight."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.detectors import detector
from helpers.runs import model_of, need_mmdet, run_config, train
from helpers.tiny import build
from mmengine.registry import DefaultScope
from torch import Tensor

from mmkd.methods import Pair, find_method
from mmkd.registry import build_part
from mmkd.tasks import Described, Detection, Segmentation, generated_batch
from mmkd.where.boxes import Boxes

PAIR = Pair(Segmentation(19))


@pytest.mark.parametrize('on', ['logits', 'feature'])
def test_maskd(on: str) -> None:
    """MasKDLoss of the authors, λ 1: masks of 8 tokens multiply both maps before the square."""
    plan = find_method('maskd')(PAIR, on=on, power=2)
    one = plan.objectives['maskd']
    assert plan.hooks == [dict(type='mmkd.FitHook')]
    loss = build_part(dict(one['loss'])).double()
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        scale * torch.randn(2, 19, 8, 16, dtype=torch.float64, generator=generator)
        for scale in (1, 3)
    )
    loss.build(student=student, teacher=teacher)
    tokens = loss.tokens.double().tokens
    assert tokens.shape == (8, 19)
    tokens.copy_(torch.randn(8, 19, generator=generator))

    mask = (tokens.expand(2, -1, -1) @ teacher.view(2, 19, -1)).sigmoid().view(2, 8, 8, 16)
    ours, theirs = (x.unsqueeze(1) * mask.unsqueeze(2) for x in (student, teacher))
    squares = ((ours - theirs) ** 2).sum((3, 4)) / (mask.sum((2, 3)).unsqueeze(-1) + 1e-5)
    official = 1.0 * (squares.mean() * 0.5)
    assert one['weight'] * loss(student, teacher).item() == pytest.approx(official.item(), rel=1e-6)
    # without the second factor, the default, it is a weighted mean: half the mean square
    one = find_method('maskd')(PAIR, on=on).objectives['maskd']
    loss = build_part(dict(one['loss'], teacher_channels=19))
    loss.tokens.tokens.zero_()
    half = F.mse_loss(student, teacher).item() / 2
    assert one['weight'] * loss(student, teacher).item() == pytest.approx(half, rel=1e-6)


@pytest.mark.bad_input
def test_maskd_refuses_other_maps() -> None:
    with pytest.raises(ValueError, match=r"on must be one of \('logits', 'feature'\)"):
        find_method('maskd')(PAIR, on='stages')


@pytest.mark.parametrize('on', ['logits', 'feature'])
def test_maskd_by_name_fits_and_trains(tmp_path: Path, on: str) -> None:
    model = model_of(critic=False, method=dict(type='maskd', on=on, steps=4))
    del model['objectives'], model['taps']
    cfg = run_config(tmp_path, model, max_iters=2, val_interval=9)
    runner = train(cfg)
    assert runner.model.objectives.maskd.loss.part.fitted
    assert runner.message_hub.log_scalars['train/maskd.loss'].data[0][-1] > 0


# ---------------------------------------------------------------------- FGD


def focal(
    student: Tensor, teacher: Tensor, fg: Tensor, bg: Tensor, t: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fg_loss, bg_loss and mask_loss of the authors: sums over N."""
    n, c, h, w = student.shape

    def attention(x: Tensor) -> tuple[Tensor, Tensor]:
        value = x.abs()
        spatial = h * w * (value.mean(1) / t).view(n, -1).softmax(1)
        return spatial.view(n, 1, h, w), c * (value.mean((2, 3)) / t).softmax(1)[..., None, None]

    (s_s, c_s), (s_t, c_t) = attention(student), attention(teacher)
    squares = (student - teacher).square() * s_t * c_t
    return (
        (squares * fg.unsqueeze(1)).sum() / n,
        (squares * bg.unsqueeze(1)).sum() / n,
        ((c_s - c_t).abs().sum() + (s_s - s_t).abs().sum()) / n,
    )


def relations(student: Tensor, teacher: Tensor, ours: Any, theirs: Any) -> Tensor:
    """Return rela_loss of the authors, of blocks whose convolutions are linear layers."""
    outs = []
    for x, block in ((student, ours), (teacher, theirs)):
        n, c, h, w = x.shape
        attention = block.attention(x.permute(0, 2, 3, 1)).view(n, h * w).softmax(1)
        context = (x.view(n, c, h * w) * attention.unsqueeze(1)).sum(2)
        outs.append(x + block.transform(context)[:, :, None, None])
    return F.mse_loss(*outs, reduction='sum') / len(student)


def boxes_of(n: int, side: int) -> list[Tensor]:
    """Return three boxes on each image, at random, and one that lies within another."""
    generator = torch.Generator().manual_seed(n)
    each = []
    for _ in range(n):
        corner = torch.rand(3, 2, generator=generator) * side / 2
        size = side / 8 + torch.rand(3, 2, generator=generator) * side / 3
        boxes = torch.cat([corner, corner + size], 1)
        inner = torch.cat([corner[:1] + size[:1] / 4, corner[:1] + size[:1] / 2], 1)
        each.append(torch.cat([boxes, inner]))
    return each


def fgd(levels: int = 5, stages: int = 1, **options: Any) -> list[dict]:
    described = dict(neck=dict(num_outs=levels)) | (dict(roi_head=dict()) if stages == 2 else {})
    model = Described(described)
    pair = Pair(Detection(80), models=dict(student=model, teacher=model), method='fgd')
    return list(find_method('fgd')(pair, **options).objectives.values())


@pytest.mark.parametrize(('alpha', 'beta', 'gamma'), [(1e-3, 5e-4, 1e-3), (5e-5, 2.5e-5, 5e-5)])
def test_the_sums_of_the_authors_are_these_means(alpha: float, beta: float, gamma: float) -> None:
    """α fg + β bg + γ attention = α C Σw/N · loss, of a = γ P and b = γ C over that factor."""
    generator = torch.Generator().manual_seed(0)
    for n, c, side in ((1, 6, 16), (3, 9, 8)):
        student, teacher = (
            torch.randn(n, c, side, side, dtype=torch.float64, generator=generator) for _ in '12'
        )
        batch = SimpleNamespace(inputs=torch.zeros(n, 3, 8 * side, 8 * side))
        batch.boxes = boxes_of(n, 8 * side)
        fg = Boxes()(batch, student).double()
        bg = Boxes(outside=True)(batch, student).double()
        assert (fg * bg == 0).all()
        assert (fg + bg > 0).all()
        torch.testing.assert_close(bg.sum((1, 2)), torch.ones(n).double())
        parts = focal(student, teacher, fg, bg)
        official = sum(k * x for k, x in zip((alpha, beta, gamma), parts, strict=True))

        weight = Boxes(outside=beta / alpha)(batch, student).double()
        torch.testing.assert_close(weight, fg + beta / alpha * bg, rtol=1e-6, atol=0)
        factor = alpha * c * weight.sum().item() / n
        loss = build_part(
            dict(
                type='FocalFeatureLoss',
                spatial=gamma * side**2 / factor,
                channel=gamma * c / factor,
            )
        )
        found = factor * loss(student, teacher, weight=weight)
        torch.testing.assert_close(found, official, rtol=1e-6, atol=0)


@pytest.mark.parametrize('stages', [1, 2])
def test_fgd_has_the_published_weights(stages: int) -> None:
    """Of 7.3 boxes of COCO, 256 channels and 800×1333 pixels, level by level."""
    alpha, beta, gamma = (1e-3, 5e-4, 1e-3) if stages == 1 else (5e-5, 2.5e-5, 5e-5)
    lam = 5e-6 if stages == 1 else 5e-7
    finest = 100 * 168 if stages == 1 else 200 * 336
    for k, one in enumerate(fgd(stages=stages)):
        factor = one['weight']
        assert factor == pytest.approx(alpha * 256 * (7.3 + 0.5))
        assert one['where'] == dict(type='Boxes', outside=0.5)
        assert one['connectors'] == dict(student='auto')
        loss = one['loss']
        assert (loss['type'], loss['temperature']) == ('FocalFeatureLoss', 0.5)
        assert factor * loss['spatial'] == pytest.approx(gamma * finest / 4**k)
        assert factor * loss['channel'] == pytest.approx(gamma * 256)
        assert factor * loss['relation'] == pytest.approx(lam * 256 * finest / 4**k)
        assert loss['blocks'] == 'shared'
    assert [round(one['weight'], 2) for one in fgd(stages=stages)] == 5 * [
        2.0 / [1, 20][stages - 1]
    ]
    own = fgd(alpha=2e-3, beta=0.0, gamma=0.0, relation=0.0, temperature=1.0)[0]
    assert own['weight'] == pytest.approx(2e-3 * 256 * 7.3)
    assert own['where'] == dict(type='Boxes', outside=0.0)
    assert own['loss'] == dict(
        type='FocalFeatureLoss',
        temperature=1.0,
        spatial=0.0,
        channel=0.0,
        relation=0.0,
        blocks='shared',
    )


@pytest.mark.bad_input
def test_fgd_refuses_other_weights() -> None:
    for options in (dict(alpha=0.0), dict(beta=-1.0), dict(gamma=-1.0), dict(relation=-1.0)):
        with pytest.raises(ValueError, match=f'{next(iter(options))} must be a finite number'):
            fgd(**options)


def test_fgd_of_an_image_of_coco_is_the_official_value() -> None:
    """At 100×168 and 256 channels; seven boxes apart count as 7.3 do."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(1, 256, 100, 168, generator=generator) for _ in range(2))
    starts = torch.arange(7) * 160.0
    size = 8.0 * torch.arange(1, 8)
    boxes = torch.stack([starts, 2 * starts / 4, starts + 2 * size, starts / 2 + size], 1)
    batch = SimpleNamespace(inputs=torch.zeros(1, 3, 800, 1344), boxes=[boxes])
    one = fgd()[0]
    weight = build_part(dict(one['where']))(batch, student)
    torch.testing.assert_close(weight.sum().item(), 7.5, rtol=1e-5, atol=0)
    loss = build_part(dict(one['loss'], blocks='two', teacher_channels=256))
    for block in (loss.context.ours, loss.context.theirs):  # those that have moved
        last = block.transform[3].weight
        last.data.copy_(torch.randn(last.shape, generator=generator) / 10)
    found = one['weight'] * loss(student, teacher, weight=weight)
    parts = focal(student, teacher, Boxes()(batch, student), Boxes(outside=True)(batch, student))
    features = 1e-3 * parts[0] + 5e-4 * parts[1]
    relation = relations(student, teacher, loss.context.ours, loss.context.theirs)
    expected = features * 7.8 / 7.5 + 1e-3 * parts[2] + 5e-6 * relation
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert relation > 1.1 * (student - teacher).square().sum()


@pytest.mark.parametrize('width', [8, 16])
def test_fgd_by_name_teaches_a_detector(width: int) -> None:
    """FCOS of mmdet: the value of each level is that of its neck's maps and the samples' boxes."""
    need_mmdet()
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=detector(8)),
                teacher=dict(model=detector(width), allow_untrained=True),
                method='fgd',
            )
        )
        maps: list[list[Tensor]] = []
        hooks = [
            member.neck.register_forward_hook(lambda _, args, out: maps.append(list(out)))
            for member in (model.student, model.teacher)
        ]
        data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
        losses = model(**data, mode='loss')
        for hook in hooks:
            hook.remove()
    found = {key: one for key, one in losses.items() if key.startswith('fgd')}
    assert list(found) == [f'fgd{k}.loss' for k in range(5)]
    sum(found.values()).backward()
    assert model.student.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    if width != 8:  # a convolution lies between
        assert len(model.objectives.fgd0.connectors) == 1
        return
    student, teacher = sorted(maps, key=lambda each: not each[0].requires_grad)
    batch = SimpleNamespace(
        inputs=data['inputs'],
        boxes=[getattr(x.gt_instances.bboxes, 'tensor', x.gt_instances.bboxes)
               for x in data['data_samples']],
    )  # fmt: skip
    for k, one in enumerate(fgd()):
        own, other = student[k].detach(), teacher[k]
        fg, bg = (Boxes(**options)(batch, own) for options in ({}, dict(outside=True)))
        features = focal(own, other, fg, bg)
        zero = dict(spatial=0.0, channel=0.0, relation=0.0)
        alone = build_part(one['loss'] | dict(relation=0.0))
        # per box of this batch, not of COCO; 8 channels, not 256; P of this level
        mean = (features[0] + 0.5 * features[1]) / 8 / ((fg + 0.5 * bg).sum() / 2)
        apart = alone(own, other) - build_part(one['loss'] | zero)(own, other)
        apart = apart + one['loss']['relation'] * F.mse_loss(own, other)  # of a new block
        expected = one['weight'] * (mean + apart)
        torch.testing.assert_close(found[f'fgd{k}.loss'].detach(), expected, rtol=1e-4, atol=0)
