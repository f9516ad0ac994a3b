"""What models share that end in another network's classifier, behind a projector."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from mmkd.connectors.batch_norm import BatchNorm
from mmkd.utils.checkpoints import load_state_dict_file


def bottleneck(channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """Return SimKD's projector: convolutions 1×1, 3×3, 1×1, each with normalisation and ReLU.

    Args:
        channels: Of the student's map.
        out_channels: Of the map that the classifier reads.
        factor: What these are divided by in between.

    >>> [layer.weight.shape[:2] for layer in bottleneck(4, 8, 2)[::3]]
    [torch.Size([4, 4]), torch.Size([4, 4]), torch.Size([8, 4])]
    """
    width = max(out_channels // factor, 1)
    layers: list[nn.Module] = []
    for given, made, size in ((channels, width, 1), (width, width, 3), (width, out_channels, 1)):
        conv = nn.Conv2d(given, made, size, padding=size // 2, bias=False)
        layers += [conv, BatchNorm(made), nn.ReLU()]
    return nn.Sequential(*layers)


def draw_bottleneck(projector: nn.Sequential) -> None:
    """Initialise a projector as its authors do.

    >>> draw_bottleneck(bottleneck(4, 8, 2))
    """
    for layer in projector:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(layer, BatchNorm):
            layer.reset_parameters()


def borrow(classifier: nn.Module, pretrained: str, key: str, of: str) -> None:
    """Load weight and bias of a classifier from the checkpoint of another network.

    Args:
        classifier: That gets them.
        pretrained: The checkpoint, of the model itself or of a run that distilled it.
        key: Where it holds the classifier.
        of: What such a network is, for messages.

    Raises:
        RuntimeError: There is none, or it has other classes or channels.
    """
    state = load_state_dict_file(pretrained)
    keys = [f'{key}.{name}' for name in ('weight', 'bias')]
    prefix = next((one for one in ('', 'students.student.') if one + keys[0] in state), None)
    if prefix is None:
        raise RuntimeError(
            f'{pretrained} has no {keys[0]}, so there is no classifier to borrow. Mend: the '
            f'checkpoint of {of}'
        )
    classifier.load_state_dict({one.rpartition('.')[2]: state[prefix + one] for one in keys})


def check_whole(
    state: Mapping[str, Tensor] | Collection[str], own: str, names: Collection[str], where: str
) -> None:
    """Refuse weights without a part that predicts: what is loaded would say noise, strict or not.

    Args:
        state: Keys of what is loaded.
        own: What the keys of the parts begin with.
        names: Of the parts.
        where: How the message calls their owner.

    Raises:
        RuntimeError: Names what is lacking.

    >>> check_whole(['head.projector.0.weight'], 'head.', ['projector'], 'a head')
    """
    there = {key.removeprefix(own).split('.')[0] for key in state if key.startswith(own)}
    lacking: list[Any] = [name for name in names if name not in there]
    if lacking:
        raise RuntimeError(
            f'these weights lack the {" and the ".join(lacking)} of {where}, without which the '
            'student predicts nothing. Mend: the weights that mmkd export wrote, whole'
        )
