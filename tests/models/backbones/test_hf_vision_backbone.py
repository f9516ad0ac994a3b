"""HFVisionBackbone: its maps are transformers' own states, token by token, at any size."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

transformers = pytest.importorskip('transformers')

from mmkd.distiller.export import student_config  # noqa: E402
from mmkd.distiller.members.member import Member  # noqa: E402
from mmkd.models import HFVisionBackbone  # noqa: E402

VIT = dict(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
)
PYRAMID = dict(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1])
WINDOWS = dict(embed_dim=4, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], image_size=64)
# Type -> options, and how many tokens stand before those of the patches.
TOKENS = {
    'dinov2': (VIT, 1),
    'dinov2_with_registers': (VIT | dict(num_register_tokens=3), 4),
    'dinov3_vit': (VIT | dict(num_register_tokens=2), 3),
    'clip_vision_model': (VIT, 1),
    'siglip_vision_model': (VIT, 0),
    'vit': (VIT, 1),
    'deit': (VIT, 2),
    'beit': (VIT, 1),
    'ijepa': (VIT, 0),
}
AIM = 'aimv2_vision_model'  # of one size

# Type -> options; their states are maps, channels first.
MAPS = {
    'convnext': PYRAMID,
    'resnet': PYRAMID | dict(embedding_size=4, layer_type='basic'),
    'segformer': PYRAMID | dict(num_attention_heads=[1, 1, 2, 2]),
    'pvt_v2': PYRAMID | dict(num_attention_heads=[1, 1, 2, 2]),
    'vitdet': VIT,
}
BACKBONES = ('dinov2', 'dinov2_with_registers', 'dinov3_vit')  # whose AutoBackbone norms alike
SAM = dict(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
    output_channels=6,
    mlp_dim=16,
    global_attn_indexes=[1],
    window_size=2,
)


def build(kind: str, options: dict, **given: Any) -> HFVisionBackbone:
    torch.manual_seed(0)
    net = HFVisionBackbone(dict(model_type=kind, **options), **given).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # zeros of embeddings would hide which token is which
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_hand(tokens: Tensor, prefix: int, width: int) -> Tensor:
    """Return tokens (N, L, D) as a map, place by place."""
    kept = tokens[:, prefix:]
    height = kept.shape[1] // width
    out = tokens.new_zeros(len(tokens), tokens.shape[2], height, width)
    for i in range(kept.shape[1]):
        out[:, :, i // width, i % width] = kept[:, i]
    return out


@torch.no_grad()
@pytest.mark.parametrize('size', [(32, 32), (24, 40)], ids=str)
@pytest.mark.parametrize('kind', TOKENS)
def test_tokens_are_the_librarys_own(kind: str, size: tuple[int, int]) -> None:
    """CLS, distillation and register tokens are gone; rows lie as the patches do."""
    options, prefix = TOKENS[kind]
    net = build(kind, options, out_indices=(1, -1))
    x = images(*size)
    more = dict(interpolate_pos_encoding=True) if 'interpolate_pos_encoding' in net._takes else {}
    theirs = net.model(pixel_values=x, output_hidden_states=True, **more)
    assert net.prefix == prefix
    first, last = net(x)
    assert last.shape == (2, 8, size[0] // 8, size[1] // 8)
    assert torch.equal(last, by_hand(theirs.last_hidden_state, prefix, size[1] // 8))
    assert torch.equal(first, by_hand(theirs.hidden_states[1], prefix, size[1] // 8))


@torch.no_grad()
def test_tokens_of_one_size_are_the_librarys_own() -> None:
    net = build(AIM, VIT)
    x = images(32, 32)
    theirs = net.model(pixel_values=x).last_hidden_state
    assert torch.equal(net(x)[0], by_hand(theirs, 0, 4))


@torch.no_grad()
@pytest.mark.parametrize('kind', BACKBONES)
def test_equals_the_librarys_own_backbone(kind: str) -> None:
    net = build(kind, TOKENS[kind][0])
    theirs = transformers.AutoBackbone.from_config(net.settings).eval()
    theirs.load_state_dict(net.model.state_dict())
    x = images(40, 24)
    torch.testing.assert_close(net(x)[0], theirs(x).feature_maps[0], rtol=0, atol=0)


@torch.no_grad()
def test_a_place_of_the_map_is_that_of_the_image() -> None:
    """One bright patch, and without attention between patches one place of the map changes."""
    net = build('vit', VIT | dict(num_hidden_layers=0))
    x = torch.zeros(1, 3, 24, 40)
    y = x.clone()
    y[:, :, 8:16, 24:32] = 1
    changed = (net(y)[0] - net(x)[0]).abs().amax(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 3]]


@torch.no_grad()
@pytest.mark.parametrize('kind', MAPS)
def test_maps_are_the_librarys_own(kind: str) -> None:
    net = build(kind, MAPS[kind], out_indices=(0, 1, -1))
    x = images(64, 96)
    theirs = net.model(pixel_values=x, output_hidden_states=True)
    wanted = [theirs.hidden_states[0], theirs.hidden_states[1], theirs.last_hidden_state]
    for got, want in zip(net(x), wanted, strict=True):
        assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize('kind', ['swin', 'swinv2'])
def test_stages_are_the_librarys_own(kind: str) -> None:
    net = build(kind, WINDOWS | dict(window_size=2), out_indices=(0, 1, 2, 3, -1))
    x = images(64, 96)
    theirs = net.model(pixel_values=x, output_hidden_states=True, interpolate_pos_encoding=True)
    wanted = [*theirs.hidden_states[:-1], theirs.last_hidden_state]
    for got, want, width in zip(net(x), wanted, (24, 12, 6, 3, 3), strict=True):
        assert torch.equal(got, by_hand(want, 0, width))


@torch.no_grad()
def test_hieras_tokens_lie_as_its_maps_do() -> None:
    """Within a stage they lie unit by unit, so that only the library's maps, channels last, serve;
    at the last stage a unit is one token, and both agree.
    """
    options = WINDOWS | dict(mlp_ratio=2.0, image_size=[64, 64])
    net = build('hiera', options, out_indices=(0, 1, 2, 3, 4))
    x = images(64, 64)
    theirs = net.model(pixel_values=x, output_hidden_states=True, interpolate_pos_encoding=True)
    maps = [state.permute(0, 3, 1, 2) for state in theirs.reshaped_hidden_states]
    assert all(torch.equal(got, want) for got, want in zip(net(x), maps, strict=True))
    assert torch.equal(net(x)[-1], by_hand(theirs.last_hidden_state, 0, 2))
    assert not torch.equal(net(x)[1], by_hand(theirs.hidden_states[1], 0, 16))


@torch.no_grad()
def test_convnext_of_dinov3_has_a_mean_before_its_map() -> None:
    net = build('dinov3_convnext', PYRAMID)
    x = images(64, 96)
    theirs = net.model(pixel_values=x).last_hidden_state
    assert theirs.shape == (2, 1 + 2 * 3, 16)
    assert torch.equal(net(x)[0], by_hand(theirs, 1, 3))


@torch.no_grad()
@pytest.mark.parametrize('kind', ['sam_vision_model', 'sam_hq_vision_model'])
def test_sams_encoder_sees_its_own_size(kind: str) -> None:
    """Its states have the channels last, its neck first; images of other sizes are resized."""
    net = build(kind, SAM, out_indices=(1, -1))
    x = images(48, 40)
    small = F.interpolate(x, size=(32, 32), mode='bilinear', align_corners=False)
    theirs = net.model(pixel_values=small, output_hidden_states=True)
    state, neck = net(x)
    assert torch.equal(state, theirs.hidden_states[1].permute(0, 3, 1, 2))
    assert torch.equal(neck, theirs.last_hidden_state)
    assert neck.shape == (2, 6, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize(
    ('kind', 'options', 'size', 'near'),
    [
        ('dinov2', VIT, (50, 70), (48, 72)),
        ('dinov2', VIT, (3, 5), (8, 8)),
        (AIM, VIT, (48, 40), (32, 32)),
        ('hiera', WINDOWS | dict(mlp_ratio=2.0, image_size=[64, 64]), (60, 70), (64, 64)),
    ],
)
def test_other_sizes_go_to_the_nearest_multiple(
    kind: str, options: dict, size: tuple[int, int], near: tuple[int, int]
) -> None:
    net = build(kind, options)
    x = images(*size)
    resized = F.interpolate(x, size=near, mode='bilinear', align_corners=False)
    assert torch.equal(net(x)[0], net(resized)[0])
    fixed = build(kind, options, input_size=near)
    assert torch.equal(
        fixed(images(16, 16))[0],
        fixed(F.interpolate(images(16, 16), size=near, mode='bilinear', align_corners=False))[0],
    )


def test_a_size_that_fits_is_not_touched() -> None:
    for kind, options in (('dinov2', VIT), ('convnext', PYRAMID)):
        net, x = build(kind, options), images(40, 56)
        assert net._resize(x) is x


def test_frozen_stays_as_it_is() -> None:
    net = build('dinov2', VIT | dict(hidden_dropout_prob=0.5), frozen=True).train()
    x = images(32, 32)
    assert not any(module.training for module in net.model.modules())
    assert torch.equal(net(x)[0], net(x)[0])
    assert not net(x)[0].requires_grad
    free = build('dinov2', VIT).train()
    free(x)[0].sum().backward()
    assert all(module.training for module in free.model.modules())
    assert free.model.embeddings.patch_embeddings.projection.weight.grad is not None


def test_weights_of_a_folder(tmp_path: Path) -> None:
    net = build('dinov2', VIT)
    net.model.save_pretrained(tmp_path)
    statistics = dict(image_mean=[0.5, 0.25, 0.0], image_std=[0.5] * 3, rescale_factor=1 / 255)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(statistics))
    other = HFVisionBackbone(pretrained=str(tmp_path)).eval()
    assert (other.mean, other.std) == (
        pytest.approx([0.5, 0.25, 0.0]),
        pytest.approx([0.5] * 3),
    )
    x = images(32, 32)
    assert not torch.equal(other(x)[0], net(x)[0])
    other.init_weights()
    assert torch.equal(other(x)[0], net(x)[0])


@pytest.mark.parametrize('kind', ['clip', 'siglip'])
def test_the_image_side_of_images_and_text(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {key: VIT[key] for key in ('hidden_size', 'num_hidden_layers', 'num_attention_heads')}
    config = transformers.AutoConfig.for_model(
        kind, vision_config=VIT, text_config=text | dict(intermediate_size=16, vocab_size=9)
    )
    whole = transformers.AutoModel.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    net = HFVisionBackbone(pretrained=str(tmp_path)).eval()
    net.init_weights()
    x = images(32, 32)
    with torch.no_grad():
        theirs = whole.vision_model(pixel_values=x).last_hidden_state
        torch.testing.assert_close(net(x)[0], by_hand(theirs, net.prefix, 4), rtol=0, atol=0)


def test_the_encoder_of_sam(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model('sam', vision_config=SAM)
    whole = transformers.AutoModel.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    net = HFVisionBackbone(pretrained=str(tmp_path)).eval()
    net.init_weights()
    x = images(32, 32)
    with torch.no_grad():
        theirs = whole.vision_encoder(x).last_hidden_state
        torch.testing.assert_close(net(x)[0], theirs, rtol=0, atol=0)


@torch.no_grad()
def test_stages_of_sam2() -> None:
    """Every block's state, channels last; sizes are multiples of its windows."""
    net = build('sam2_hiera_det_model', dict(), out_indices=(0, -1))
    x = images(64, 90)
    resized = F.interpolate(x, size=(64, 96), mode='bilinear', align_corners=False)
    theirs = net.model(pixel_values=resized, output_hidden_states=True)
    first, last = net(x)
    assert first.shape[2:] == (16, 24)
    assert torch.equal(first, theirs.hidden_states[0].permute(0, 3, 1, 2))
    assert torch.equal(last, theirs.last_hidden_state.permute(0, 3, 1, 2))


def test_a_student_under_mmsegs_head() -> None:
    """As the backbone of a segmentor that trains."""
    model = tiny.segmentor(4, auxiliary=False)
    config = dict(model_type='dinov2', **VIT)
    model['backbone'] = dict(type='mmkd.HFVisionBackbone', config=config)
    model['decode_head'] |= dict(in_channels=8, in_index=0)
    built = MODELS.build(dict(model, _scope_='mmseg')).train()
    logs = built.train_step(tiny.batch(), tiny.sgd(built))
    assert logs['decode.loss_ce'] > 0


# ---------------------------------------------------------------------- bad input


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('given', 'error', 'message'),
    [
        (dict(), TypeError, r'needs config= or pretrained=. Mend: a folder with config.json, or'),
        (dict(config=VIT), KeyError, r"config needs a model_type, got .*model_type='dinov2'"),
        (
            dict(config=dict(model_type='dinov2'), options=dict(hiden_size=8)),
            KeyError,
            r"options name 'hiden_size', which the config of a dinov2 does not have.*hidden_size",
        ),
        (dict(config=dict(model_type='dinov22')), ValueError, 'dinov22'),
        (dict(config='nowhere/at/all'), FileNotFoundError, r"'nowhere/at/all' is not there"),
        (dict(pretrained='nowhere'), FileNotFoundError, r"'nowhere' is not there"),
        (
            dict(config=dict(model_type='bert', hidden_size=8, num_attention_heads=2)),
            TypeError,
            r'a BertModel needs .*, not images alone. Mend: a vision model whose forward takes',
        ),
        (
            dict(config=dict(model_type='siglip2_vision_model', hidden_size=12)),
            TypeError,
            r'a Siglip2VisionModel needs .*pixel_attention_mask.*, not images alone',
        ),
        (
            dict(config=dict(model_type='dinov2', **VIT), mean=[0.5] * 3),
            ValueError,
            r'mean and std belong together, got mean=\[0.5, 0.5, 0.5\], std=None. Mend: both',
        ),
        (
            dict(config=dict(model_type='dinov2', **VIT), size_divisor=0),
            ValueError,
            r'size_divisor must be a whole number above 0, or \(height, width\) of such, got 0',
        ),
        (
            dict(config=dict(model_type='dinov2', **VIT), input_size=(32, 32, 32)),
            ValueError,
            'input_size must be',
        ),
        (
            dict(pretrained='nowhere', init_cfg=dict(type='Xavier')),
            ValueError,
            'pretrained= and init_cfg exclude each other',
        ),
    ],
)
def test_what_it_refuses(given: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HFVisionBackbone(**given)


@pytest.mark.bad_input
@pytest.mark.parametrize('index', [3, -4])
def test_maps_that_there_are_not(index: int) -> None:
    net = build('dinov2', VIT, out_indices=(index,))
    with pytest.raises(
        ValueError,
        match=rf'out_indices=\({index},\): a Dinov2Model gives 3 maps, 0 … 2. Mend: indices',
    ):
        net(images(32, 32))


@pytest.mark.bad_input
def test_tokens_that_lie_in_no_rows() -> None:
    more = dict(image_size=[32, 32], num_detection_tokens=5)
    net = build('yolos', VIT | more)
    with pytest.raises(
        ValueError,
        match=r'a?YolosModel gives 22 tokens of images of \(32, 32\), but 4 × 4 patches of \(8, 8\)'
        r' and 1 tokens before them were expected: they lie in no rows. Mend: another model',
    ):
        net(images(32, 32))
    with pytest.raises(ValueError, match=r'ViTMAEModel drops and shuffles tokens. Mend: its enc'):
        build('vit_mae', VIT)(images(32, 32))


@pytest.mark.bad_input
def test_a_size_that_the_model_does_not_take() -> None:
    net = build('sam_vision_model', SAM, input_size=(48, 48))
    with pytest.raises(
        ValueError,
        match=r'SamVisionModel on images \(2, 3, 48, 48\): Input image size .*Mend: where it does '
        r'not take this size, input_size= \(its config says 32\) or size_divisor=',
    ):
        net(images(32, 32))


@pytest.mark.bad_input
def test_weights_that_would_be_random(tmp_path: Path) -> None:
    net = build('dinov2', VIT | dict(num_hidden_layers=1))
    net.model.save_pretrained(tmp_path)
    deeper = HFVisionBackbone(pretrained=str(tmp_path), options=dict(num_hidden_layers=2))
    with pytest.raises(
        ValueError,
        match=r'lacks \d+ weights of its Dinov2Model, such as .*layer.1.*: they would be random',
    ):
        deeper.init_weights()


@pytest.mark.bad_input
def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'transformers', None)
    with pytest.raises(ImportError, match='HFVisionBackbone needs the library transformers'):
        HFVisionBackbone(dict(model_type='dinov2'))


def test_a_student_is_exported_with_what_its_folder_of_weights_says(tmp_path: Path) -> None:
    """The folder is not there where the exported config is built."""
    folder = tmp_path / 'dino'
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**VIT)).save_pretrained(folder)
    said = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    (folder / 'preprocessor_config.json').write_text(json.dumps(said))
    model = tiny.segmentor(8, num_classes=3, size=32, head='FCNHead', auxiliary=False)
    backbone = dict(
        type='mmkd.HFVisionBackbone', pretrained=str(folder), options=dict(patch_size=4)
    )
    model['backbone'], model['decode_head']['in_channels'] = backbone, 8
    model['decode_head']['in_index'] = 0
    student = Member.parse('student', 'student', dict(model=model))
    trained = student.build()
    config = student_config(student, Config())
    shutil.rmtree(folder)
    exported = MODELS.build({**config.model, '_scope_': 'mmseg'})
    exported.load_state_dict(trained.state_dict())
    assert exported.backbone.mean == [0.5] * 3
    assert exported.backbone.settings.patch_size == 4
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found, expected = (net.eval()(x, mode='tensor') for net in (exported, trained))
    assert torch.equal(found, expected)
