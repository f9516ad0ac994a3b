"""ESPNet: a slow version from the paper's figures, the published weights, and a student that
trains.
"""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmkd.models import ESPHead, ESPNet, espnet_state_dict
from mmkd.models.backbones.espnet import ESPModule
from mmkd.registry import MODELS

# BGR; the published CamVid net divides by 255 after it has normalised
MEAN, STD = [110.82, 109.68, 106.83], [77.52 * 255, 78.53 * 255, 77.71 * 255]


def segmentor(classes: int, q: int = 8, first_map: str = 'joined', first: int = 19) -> nn.Module:
    return MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            _scope_='mmseg',
            data_preprocessor=dict(type='SegDataPreProcessor', mean=MEAN, std=STD, size=(32, 48)),
            backbone=dict(type='mmkd.ESPNet', p=2, q=q, first_map=first_map),
            decode_head=dict(
                type='mmkd.ESPHead', num_classes=classes, in_channels=(first, 131, 256)
            ),
            test_cfg=dict(mode='whole'),
        )
    )


def slow_module(module: ESPModule, x: Tensor, stride: int) -> Tensor:
    """Figure 1 of the paper, one branch and one channel at a time, before norm and activation."""
    reduce = module.c1.conv.weight
    z = F.conv2d(x, reduce, stride=stride, padding=reduce.shape[-1] // 2)
    branches = []
    for d in (1, 2, 4, 8, 16):
        weight = getattr(module, f'd{d}').conv.weight
        padded = F.pad(z, (d, d, d, d))
        h, w = z.shape[-2:]
        branches.append(
            sum(
                torch.einsum(
                    'oc,nchw->nohw',
                    weight[:, :, i, j],
                    padded[..., i * d : i * d + h, j * d : j * d + w],
                )
                for i in range(3)
                for j in range(3)
            )
        )
    d1, d2, d4, d8, d16 = branches
    return torch.cat([d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16], 1)


@pytest.mark.parametrize(
    ('inputs', 'outputs', 'stride', 'residual'),
    [(19, 64, 2, False), (64, 64, 1, True), (24, 12, 1, False)],
)
def test_the_spatial_pyramid_is_the_papers(
    inputs: int, outputs: int, stride: int, residual: bool
) -> None:
    module = ESPModule(inputs, outputs, stride, residual).eval()
    x = torch.randn(2, inputs, 10, 12)
    with torch.no_grad():
        summed = slow_module(module, x, stride) + (x if residual else 0)
        expected = F.prelu(summed / (1 + 1e-3) ** 0.5, torch.full((outputs,), 0.25))
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_parameter_counts_are_the_published_ones() -> None:
    """The published files hold 358,193 numbers for CamVid (p=2, q=8, 12 classes) and 368,341 for
    Cityscapes (20).
    """

    def count(net: nn.Module) -> int:
        return sum(
            v.numel()
            for k, v in net.state_dict().items()
            if 'num_batches' not in k and 'data_preprocessor' not in k
        )

    assert count(segmentor(12)) == 358_193
    assert count(segmentor(20, first_map='plain', first=16)) == 368_341
    encoder = ESPNet()
    assert count(encoder) + 256 * 20 == 352_981  # ESPNet-C: and a 1×1 classifier without a bias


def test_the_image_is_joined_to_the_first_two_maps() -> None:
    net = ESPNet(p=1, q=1).eval()
    for norm in (net.b1, net.b2):
        nn.init.ones_(norm.act.weight)  # linear: the activation keeps what comes in
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        one, two, _ = net(image)
    half = F.avg_pool2d(image, 3, 2, 1)
    torch.testing.assert_close(one[:, 16:], half / 1.001**0.5)
    torch.testing.assert_close(two[:, 128:], F.avg_pool2d(half, 3, 2, 1) / 1.001**0.5)
    plain = ESPNet(p=1, q=1, first_map='plain').eval()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(image)[0] / 1.001**0.5, one[:, :16])


def test_the_published_camvid_net(shared: Callable[[str], str]) -> None:
    """Every 16th test frame; all 233 give 56.51 mIoU (the authors report 55.64)."""
    net = segmentor(12).eval()
    net.load_state_dict(
        espnet_state_dict(
            torch.load(
                shared('weights/espnet/espnet_p_2_q_8_camvid.pth'),
                map_location='cpu',
                weights_only=True,
            )
        )
    )
    confusion = np.zeros((11, 12))
    for path in sorted(shared('data/camvid/img_dir/test').iterdir())[::16]:
        labels = cv2.imread(
            str(path).replace('img_dir', 'ann_dir').replace('.jpg', '.png'), cv2.IMREAD_UNCHANGED
        )
        data = net.data_preprocessor(
            dict(inputs=[torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1)])
        )
        with torch.no_grad():
            found = net.predict(torch.stack(list(data['inputs'])))[0].pred_sem_seg.data[0].numpy()
        valid = labels != 255
        confusion += np.bincount(
            labels[valid].astype(int) * 12 + found[valid], minlength=132
        ).reshape(11, 12)
    hits = confusion.diagonal()
    iou = hits / (confusion.sum(0)[:11] + confusion.sum(1) - hits)
    assert 100 * iou.mean() == pytest.approx(55.56, abs=0.05)
    assert 100 * hits.sum() / confusion.sum() == pytest.approx(85.15, abs=0.02)


@pytest.mark.parametrize(
    ('name', 'q'),
    [('espnet_p_2_q_3', 3), ('espnet_p_2_q_5', 5), ('espnet_p_2_q_8', 8), ('espnetc_p_2_q_3', 3)],
)
def test_the_published_cityscapes_weights_load(
    shared: Callable[[str], str], name: str, q: int
) -> None:
    published = torch.load(
        shared(f'weights/espnet/{name}_cityscapes.pth'), map_location='cpu', weights_only=True
    )
    renamed = espnet_state_dict(published)
    if name.startswith('espnet_'):
        segmentor(20, q, 'plain', 16).load_state_dict(renamed)
    else:
        classifier = renamed.pop('decode_head.conv_seg.weight')
        assert classifier.shape == (20, 256, 1, 1)
        ESPNet(2, q).load_state_dict(
            {key.removeprefix('backbone.'): value for key, value in renamed.items()}
        )
    assert sum(v.numel() for v in published.values()) == sum(
        v.numel() for v in renamed.values()
    ) + (0 if name.startswith('espnet_') else 20 * 256)


def test_it_learns_one_image() -> None:
    """A stripe pattern is fitted: loss falls to a tenth, so gradients reach the whole net."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    net = segmentor(5, q=1).train()
    net.init_weights()
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    labels = torch.zeros(1, 32, 48, dtype=torch.long)
    labels[..., 16:32], labels[..., 32:] = 1, 2
    image[0] = (labels[0] * 100).to(torch.uint8)
    net.data_preprocessor.std /= 255
    data = dict(
        inputs=[image] * 2,
        data_samples=[SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(2)],
    )
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    losses = []
    for _ in range(30):
        loss = net(**net.data_preprocessor(data, True), mode='loss')['decode.loss_ce']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(5), abs=0.15)
    assert losses[-1] < 0.1 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_an_image_that_does_not_divide_names_the_mend() -> None:
    with pytest.raises(ValueError, match=r'multiples of 8, got \(20, 32\): set size_divisor=8'):
        ESPNet(p=1, q=1)(torch.zeros(1, 3, 20, 32))


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError,
        match=r"first_map must be one of \('joined', 'plain'\), got 'join'; did you mean",
    ):
        ESPNet(first_map='join')
    with pytest.raises(ValueError, match=r'at least 5 classes, got 2: take ESPNet with'):
        ESPHead(num_classes=2)


def test_the_head_upsamples_to_the_image() -> None:
    head = ESPHead(num_classes=5)
    assert isinstance(head.conv_seg, nn.ConvTranspose2d)
    nn.init.constant_(head.conv_seg.weight, 1.0)
    head.eval()
    maps = [torch.randn(1, c, 16 // s, 16 // s) for c, s in ((19, 2), (131, 4), (256, 8))]
    with torch.no_grad():
        logits = head(maps)
        features = head.conv(
            torch.cat(
                [
                    head.up_l2(
                        head.combine_l2_l3(
                            torch.cat(
                                [head.level3_C(maps[1]), head.up_l3(head.br(head.level3(maps[2])))],
                                1,
                            )
                        )
                    ),
                    maps[0],
                ],
                1,
            )
        )
    expected = features.sum(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(logits, expected.expand(-1, 5, -1, -1), rtol=1e-4, atol=1e-5)
