"""ImageClassifier: logits by hand, its loss and prediction against torch, backbones of any package,
messages.
"""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

import mmkd.models  # noqa: F401
from mmkd.models.classifiers.image_classifier import ImageClassifier


class Two(nn.Module):
    """A backbone of two maps: the input, and the input times two."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        return x, 2 * x


def classifier(backbone: object = None, **overrides: object) -> ImageClassifier:
    """Return a classifier of three classes over `Two`."""
    return ImageClassifier(
        **dict(backbone=backbone or Two(), num_classes=3, in_channels=3) | overrides
    )


def samples(*labels: int) -> list[BaseDataElement]:
    """Return a data sample a label."""
    return [BaseDataElement(gt_label=torch.tensor([label])) for label in labels]


def test_logits_by_hand() -> None:
    """The mean over positions of the last map, then W·x + b; labels 0 and 2 of it give the
    cross-entropy.
    """
    model = classifier()
    with torch.no_grad():
        model.head.fc.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]]))
        model.head.fc.bias.copy_(torch.tensor([0.0, 1, 0]))
    image = torch.tensor([[1.0, 3], [2, 0], [0, 1]]).view(
        1, 3, 1, 2
    )  # means 2, 1, 0.5, doubled by the last map
    logits = model(image)
    assert logits.tolist() == [[4.0, 3.0, 7.0]]
    expected = -7 + torch.tensor([4.0, 3.0, 7.0]).exp().sum().log()
    losses = model(image, samples(2), mode='loss')
    assert list(losses) == ['loss_cls']
    torch.testing.assert_close(losses['loss_cls'], expected)


def test_the_loss_is_the_mean_cross_entropy() -> None:
    """Over the batch, with gradients into backbone and head."""
    model = classifier(dict(type='CIFARResNet', depth=8), in_channels=64).eval()
    images = torch.randn(4, 3, 16, 16)
    loss = model(images, samples(0, 2, 1, 1), mode='loss')['loss_cls']
    torch.testing.assert_close(
        loss, F.nll_loss(model(images).log_softmax(1), torch.tensor([0, 2, 1, 1]))
    )
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize('given', [None, 2])
def test_predict(given: int | None) -> None:
    """Softmax, logits and the best class of each image, in the samples that were given or in new
    ones.
    """
    model = classifier().eval()
    images = torch.randn(2, 3, 4, 4)
    known = samples(1, 2) if given else None
    out = model(images, known, mode='predict')
    logits = model(images)
    for i, sample in enumerate(out):
        assert known is None or sample is known[i] and sample.gt_label.item() == i + 1
        torch.testing.assert_close(sample.pred_logits, logits[i])
        torch.testing.assert_close(sample.pred_score, logits[i].exp() / logits[i].exp().sum())
        assert sample.pred_label.shape == (1,)
        assert sample.pred_label.item() == logits[i].argmax().item()


@pytest.mark.parametrize(
    ('backbone', 'channels', 'package'),
    [
        (dict(type='WideResNet', depth=10, widen_factor=1), 64, 'mmkd.'),
        (dict(type='mmkd.CIFARResNet', depth=8), 64, 'mmkd.'),
        (dict(type='ResNetV1c', depth=18, base_channels=4, stem_channels=4), 32, 'mmseg.'),
        (dict(type='mmseg.ResNet', depth=18, base_channels=4, stem_channels=4), 32, 'mmseg.'),
        (dict(type='MobileNetV2', widen_factor=0.25), 80, 'mmseg.'),
    ],
)
def test_backbones_of_any_package(backbone: dict, channels: int, package: str) -> None:
    """A bare name is mmkd's, else mmseg's; the loss falls when the head is trained on one batch."""
    model = MODELS.build(
        dict(type='mmkd.ImageClassifier', backbone=backbone, num_classes=3, in_channels=channels)
    )
    assert type(model.backbone).__module__.startswith(package)
    model.init_weights()
    assert 0 < model.head.fc.weight.std() < 0.02
    assert model.head.fc.bias.abs().max() == 0
    model.double().eval()
    images, known = torch.randn(3, 3, 32, 32, dtype=torch.float64), samples(0, 1, 2)
    before = model(images, known, mode='loss')['loss_cls']
    with torch.no_grad():
        for parameter, gradient in zip(
            model.head.parameters(),
            torch.autograd.grad(before, list(model.head.parameters())),
            strict=True,
        ):
            parameter -= 1e-3 * gradient / (1e-6 + gradient.norm())
    assert model(images, known, mode='loss')['loss_cls'] < before


def test_the_default_preprocessor_is_that_of_cifar10() -> None:
    """(RGB − mean) / std: the BGR pixel (0, 51.5865 …) by hand; a batch of one tensor equals a list
    of images.
    """
    model = classifier()
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    stacked = model.data_preprocessor(dict(inputs=images.clone(), data_samples=None), True)[
        'inputs'
    ]
    listed = model.data_preprocessor(dict(inputs=list(images.clone()), data_samples=None), True)[
        'inputs'
    ]
    red = (images[1, 2, 0, 3] - 125.307) / 51.5865
    torch.testing.assert_close(stacked[1, 0, 0, 3], red)
    assert torch.equal(stacked, listed)


@pytest.mark.parametrize(
    ('call', 'error', 'message'),
    [
        (lambda: classifier(num_classes=1), ValueError, 'num_classes must be .* 2.*got 1'),
        (lambda: classifier(in_channels=0), ValueError, 'in_channels must be .* 1.*got 0'),
        (lambda: classifier(dict(type='CIFARResnet')), KeyError, "did you mean 'CIFARResNet'"),
        (
            lambda: classifier(dict(type='CIFARResNet', deep=8)),
            TypeError,
            "unknown key 'deep'.*'depth'",
        ),
        (
            lambda: classifier(in_channels=4)(torch.zeros(1, 3, 2, 2)),
            ValueError,
            'in_channels=4.*Mend: in_channels=3',
        ),
        (
            lambda: classifier()(torch.zeros(1, 3, 2, 2), None, 'losses'),
            ValueError,
            "did you mean 'loss'",
        ),
        (
            lambda: classifier()(torch.zeros(1, 3, 2, 2), None, 'loss'),
            ValueError,
            'gt_label.*Mend: .*PackClsInputs',
        ),
        (
            lambda: classifier()(torch.zeros(1, 3, 2, 2), [BaseDataElement()], 'loss'),
            ValueError,
            'gt_label',
        ),
    ],
)
def test_mistakes(call: object, error: type[Exception], message: str) -> None:
    """Each names what was got and the mend."""
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
