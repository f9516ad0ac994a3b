"""What models share that end in another network's classifier, behind a projector."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from mmkd.connectors.batch_norm import BatchNorm
from mmkd.utils.checkpoints import load_state_dict_file, select_member


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
    """Initialise a projector by torch's default, as the authors' code leaves it.

    >>> draw_bottleneck(bottleneck(4, 8, 2))
    """
    for layer in projector:
        if isinstance(layer, nn.Conv2d | BatchNorm):
            layer.reset_parameters()


def borrow(
    classifier: nn.Module, pretrained: str, keys: Sequence[str], of: str, member: str
) -> None:
    """Load weight and bias of a classifier from the checkpoint of another network.

    Args:
        classifier: That gets them.
        pretrained: The checkpoint, of the model itself or of a run that distilled it.
        keys: Where such networks hold the classifier; the first one that is there is taken.
        of: What such a network is, for messages.
        member: What it is called in the checkpoint of a run of several.

    Raises:
        RuntimeError: There is none, it has no bias, or it has other classes or channels.
    """
    state = select_member(load_state_dict_file(pretrained), member)
    place = next((one for one in keys if f'{one}.weight' in state), None)
    if place is None:
        raise RuntimeError(
            f'{pretrained} has no {keys[0]}.weight, so there is no classifier to borrow. Mend: the '
            f'checkpoint of {of}'
        )
    if f'{place}.bias' not in state:
        raise RuntimeError(
            f'{pretrained} has a {place}.weight without a {place}.bias, and a classifier with both '
            'is borrowed. Mend: a teacher whose classifier adds a bias'
        )
    taken = {name: state[f'{place}.{name}'] for name in ('weight', 'bias')}
    for name, own in classifier.state_dict().items():
        _check_shape(f'{pretrained}: {place}.{name}', taken[name], own)
    classifier.load_state_dict(taken)


def _check_shape(what: str, theirs: Tensor, own: Tensor) -> None:
    """Refuse a weight or a bias of other classes, or of other channels."""
    if theirs.shape == own.shape:
        return
    mend = 'a teacher of the same classes, whose classifier is of the same kind'
    if theirs.dim() == own.dim() > 1 and len(theirs) == len(own):
        mend = f'channels={theirs.shape[1]}, which are what this classifier reads'
    raise RuntimeError(
        f'{what} has the shape {tuple(theirs.shape)}, and {tuple(own.shape)} is needed, by classes '
        f'and channels=. Mend: {mend}'
    )


def check_whole(
    state: Mapping[str, Tensor] | Collection[str], own: str, names: Collection[str], where: str
) -> None:
    """Refuse weights without a part that predicts: what is loaded would say noise, strict or not.

    Args:
        state: Keys of what is loaded.
        own: What the keys of the parts begin with.
        names: Of the weights of these parts; numbers of batches may be missing.
        where: How the message calls their owner.

    Raises:
        RuntimeError: Names what is lacking.

    >>> check_whole(['head.projector.0.weight'], 'head.', ['projector.0.weight'], 'a head')
    """
    needed = [name for name in names if not name.endswith('num_batches_tracked')]
    lacking = dict.fromkeys(name.split('.')[0] for name in needed if f'{own}{name}' not in state)
    if lacking:
        raise RuntimeError(
            f'these weights lack the {" and the ".join(lacking)} of {where}, without which the '
            'student predicts nothing. Mend: the weights that mmkd export wrote, whole; to begin '
            "with a backbone's, not the init_cfg of the model but that of its backbone, "
            "backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='….pth', "
            "prefix='backbone.'))"
        )
