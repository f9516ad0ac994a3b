"""Presets of masked generation have the value of the official formula and weight."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.detectors import detector
from helpers.runs import model_of, need_mmdet, run_config, train
from helpers.tiny import build
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmkd.distiller.export import export_student
from mmkd.methods import Pair, expand, find_method
from mmkd.registry import build_part
from mmkd.tasks import Classification, Described, Detection, Segmentation, generated_batch

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def pair(task: str, stages: int = 1) -> Pair:
    neck = dict(num_outs=5)
    detector = Described(dict(neck=neck) | (dict(roi_head=dict()) if stages == 2 else {}))
    tasks = dict(
        segmentation=Segmentation(19), classification=Classification(10), detection=Detection(80)
    )
    return Pair(tasks[task], models=dict(student=detector, teacher=detector), method='mgd')


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return student, 3 * teacher


# task, stages of the detector, α, λ, per, teacher's channels and places of the authors' runs
PUBLISHED = (
    ('segmentation', 1, 2e-5, 0.75, 'position', 2048, 64 * 64),
    ('classification', 1, 7e-5, 0.15, 'channel', 512, 7 * 7),
    ('detection', 1, 2e-5, 0.65, 'position', 256, 100 * 168),
    ('detection', 2, 5e-7, 0.45, 'position', 256, 200 * 336),
)


@pytest.mark.parametrize(('task', 'stages', 'alpha', 'share', 'per', 'width', 'places'), PUBLISHED)
def test_mgd(
    task: str, stages: int, alpha: float, share: float, per: str, width: int, places: int
) -> None:
    """get_dis_loss of the authors times α, a sum by N; the weight is α times what it sums over."""
    for k, one in enumerate(find_method('mgd')(pair(task, stages)).objectives.values()):
        n, c, side = 3, 6, 8
        student, teacher = maps(n, c, side, side)
        loss = build_part(dict(one['loss']))
        assert one['loss'] == dict(type='MaskedGenerationLoss', mask_ratio=share, per=per)
        loss.build(student=student, teacher=teacher)
        loss.double()

        torch.manual_seed(k)
        rand = torch.rand((n, c, 1, 1) if per == 'channel' else (n, 1, side, side))
        kept = torch.where(rand < share, 0, 1)
        made = loss.generator(student * kept)
        official = alpha * F.mse_loss(made, teacher, reduction='sum') / n

        torch.manual_seed(k)
        found = one['weight'] * loss(student, teacher)
        scale = c * side**2 / (width * places / 4**k)  # their maps are larger
        torch.testing.assert_close(scale * found, official, rtol=1e-9, atol=0)
        assert one['connectors'] == dict(student='auto')


def test_mgd_reads_the_maps_of_the_authors() -> None:
    found = [find_method('mgd')(pair(task)) for task in ('segmentation', 'detection')]
    assert found[0].taps == dict(feat='auto:stages[-1]')
    assert found[1].taps == {f'feat{k}': f'auto:neck[{k}]' for k in range(5)}
    assert [round(one['weight'], 2) for one in found[1].objectives.values()] == [
        *(86.02, 21.5, 5.38, 1.34, 0.34)
    ]
    assert round(found[0].objectives['mgd']['weight']) == 168
    options: dict[str, Any] = dict(
        weight=3.0, mask_ratio=0.5, per='channel', regressor='auto:conv-bn'
    )
    own = find_method('mgd')(pair('segmentation'), **options).objectives['mgd']
    assert own['weight'] == 3.0
    assert own['loss'] == dict(type='MaskedGenerationLoss', mask_ratio=0.5, per='channel')
    assert own['connectors'] == dict(student='auto:conv-bn')


# ---------------------------------------------------------------------- runs


def test_mgd_by_name_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Masks are drawn anew in each step; generators learn, and no exported student has them."""

    def run(name: str, iters: int, resume: bool = False) -> Any:
        model = model_of(critic=False, method='mgd')
        del model['objectives'], model['taps']
        schedule = dict(type='linear', target='mgd.loss.mask_ratio', start=0.25, end=0.75, length=4)
        hooks = [dict(type='mmkd.ScheduleHook', schedules=[schedule])]
        cfg = run_config(tmp_path, model, max_iters=iters, val_interval=9, name=name)
        cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
        return train(cfg, resume)

    whole = run('whole', 4)
    run('parts', 2)
    parts = run('parts', 4, resume=True)
    state, other = whole.model.state_dict(), parts.model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    for key in ('mgd.loss', 'mgd.mask_ratio'):
        values = whole.message_hub.log_scalars[f'train/{key}'].data[0]
        again = parts.message_hub.log_scalars[f'train/{key}'].data[0]
        assert list(values)[-2:] == list(again)[-2:]

    saved = torch.load(tmp_path / 'whole/iter_2.pth', weights_only=False)['state_dict']
    own = [key for key in state if key.startswith('objectives.mgd.loss.generator')]
    assert len(own) == 4
    assert all(not torch.equal(saved[key], state[key]) for key in own)
    path, _ = export_student(tmp_path / 'whole/iter_4.pth', tmp_path / 'student.pth')
    exported = torch.load(path, weights_only=False)['state_dict']
    assert exported.keys() == whole.model.student.state_dict().keys()


def test_mgd_by_name_teaches_a_detector() -> None:
    need_mmdet()
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=detector(8)),
                teacher=dict(model=detector(16), allow_untrained=True),
                method='mgd',
            )
        )
        data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
        losses = model(**data, mode='loss')
    found = {key: one for key, one in losses.items() if key.startswith('mgd')}
    assert list(found) == [f'mgd{k}.loss' for k in range(5)]
    sum(found.values()).backward()
    assert model.student.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    assert model.objectives.mgd0.loss.generator[0].weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------- ViTKD


def official_vitkd(
    low: tuple[Tensor, Tensor],
    high: tuple[Tensor, Tensor],
    generator: torch.nn.Module,
    token: Tensor,
    masked: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return loss_lr and loss_gen of the authors, of equal channels; ``masked`` (B, N) is 1 where a
    patch is, of a share λ.
    """
    alpha, beta, share = 3e-5, 3e-6, 0.5
    batch, patches, _ = high[0].shape
    side = int(patches**0.5)
    squares = torch.nn.MSELoss(reduction='sum')
    mask = masked.unsqueeze(-1)
    x = high[0] * (1 - mask) + token * mask
    x = x.reshape(batch, side, side, -1).permute(0, 3, 1, 2)
    x = generator(x).flatten(2).transpose(1, 2)
    loss = squares(x * mask, high[1] * mask) / batch * beta / share
    return squares(low[0], low[1]) / batch * alpha, loss


def test_vitkd() -> None:
    """α and β of sums, of the channels and patches of the authors' pair."""
    plan = find_method('vitkd')(pair('classification'))
    assert list(plan.objectives) == ['mimic0', 'mimic1', 'generation']
    assert plan.taps == dict(
        tokens0='auto:hidden[0]', tokens1='auto:hidden[1]', last_tokens='auto:hidden[-1]'
    )
    assert all(one['connectors'] == dict(student='auto') for one in plan.objectives.values())
    n, patches, c = 3, 16, 6
    low, high = maps(n, 2, patches, c), maps(n, patches, c)
    loss = build_part(dict(plan.objectives['generation']['loss']))
    assert (loss.mask_ratio, loss.over, loss.fill, loss.per) == (0.5, 'masked', 'token', 'position')
    loss.build(student=high[0], teacher=high[1])
    loss.double()
    loss.token.data.copy_(torch.arange(c) / 7)
    masked = torch.rand(n, patches).argsort(1) >= patches // 2  # exactly half of each image
    loss.draw = lambda x: ~masked.view(n, 1, 4, 4)
    expected = official_vitkd(low, high, loss.generator, loss.token, masked.double())

    scale = c * patches / (384 * 196)
    mimic = [plan.objectives[f'mimic{k}'] for k in range(2)]
    found = sum(
        one['weight'] * build_part(dict(one['loss']))(low[0][:, k], low[1][:, k])
        for k, one in enumerate(mimic)
    )
    torch.testing.assert_close(scale * found, expected[0], rtol=1e-9, atol=0)
    found = plan.objectives['generation']['weight'] * loss(*high)
    torch.testing.assert_close(scale * found, expected[1], rtol=1e-9, atol=0)


def test_vitkd_by_name_of_two_transformers() -> None:
    """Of 16 patches and a class token of images of CIFAR; a part that weighs 0 is not there."""
    cfg = Config.fromfile(CONFIGS / 'internal_representations/id_vit-vit_cifar10.py')
    model = {
        key: one
        for key, one in cfg.model.to_dict().items()
        if key not in ('objectives', 'taps', 'phases', 'noise', 'task_weight')
    }
    model['teacher'].update(checkpoint=None, allow_untrained=True)
    model['student'].pop('checkpoint', None)
    for member in ('student', 'teacher'):
        model[member].pop('taps', None)
    expanded, _ = expand({**model, 'method': 'vitkd'}, cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmseg'):
        built = MODELS.build(expanded)
        data = built.data_preprocessor(generated_batch(2, (32, 32), built.task), True)
        losses = built(**data, mode='loss')
    found = {key: one for key, one in losses.items() if key.split('.')[0] in expanded['objectives']}
    assert list(found) == ['mimic0.loss', 'mimic1.loss', 'generation.loss']
    sum(found.values()).backward()
    assert built.objectives.generation.loss.token.grad.abs().sum() > 0
    assert all(one > 0 for one in found.values())
    assert list(find_method('vitkd')(pair('segmentation'), mimic=0).objectives) == ['generation']
    own = find_method('vitkd')(pair('segmentation'), generation=0)
    assert list(own.objectives) == ['mimic0', 'mimic1']
    own = find_method('vitkd')(pair('segmentation'), grid=(32, 64)).objectives['generation']
    assert own['loss']['grid'] == (32, 64)


@pytest.mark.parametrize(
    ('size', 'backbone', 'grid'),
    [
        ((64, 256), dict(type='VisionTransformer', patch_size=16), (4, 16)),
        ((64, 250), dict(type='mmkd.HFVisionBackbone'), (4, 16)),
        ((64, 256), dict(type='VisionTransformer', patch_size=(8, 16)), (8, 16)),
        ((64, 64), dict(type='VisionTransformer'), None),
        (None, dict(type='VisionTransformer'), None),
    ],
)
def test_vitkd_finds_the_patches_of_images_that_are_no_square(
    size: tuple[int, int] | None, backbone: dict, grid: tuple[int, int] | None
) -> None:
    """4×16 tokens are 8×8 as well, which nothing but the size of the images tells apart."""
    own = dict(type='EncoderDecoder', backbone=backbone, data_preprocessor=dict(size=size))
    models = {one: Described(own, 'mmseg') for one in ('student', 'teacher')}
    plan = find_method('vitkd')(Pair(Segmentation(3), models=models))
    assert plan.objectives['generation']['loss'].get('grid') == grid


@pytest.mark.bad_input
def test_vitkd_without_any_part_is_refused() -> None:
    with pytest.raises(ValueError, match='mimic=0 and generation=0 teach nothing. Mend'):
        find_method('vitkd')(pair('segmentation'), mimic=0, generation=0)
