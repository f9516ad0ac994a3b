"""What ``connectors='auto'`` inserts: where shapes differ, or what is named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmkd.connectors.connector import Connector, check_kind
from mmkd.distiller.objectives.class_logits import LabelSet
from mmkd.distiller.objectives.reads import Reads, learns, shapes_of
from mmkd.losses.checks import OTHER_CLASSES
from mmkd.losses.roles import Map
from mmkd.utils.checks import check_keys, nearest
from mmkd.utils.resize import shrinks

AUTO_KEYS = ('type', 'kind', 'kernel_size', 'bias', 'always')


@dataclass(frozen=True)
class Auto:
    """A connector whose channels and size are found.

    Args:
        kind: Its layers, see :class:`mmkd.connectors.Connector`.
        kernel_size: Of its convolutions.
        bias: Whether they add one.
        always: Whether it is there too where channels agree.
    """

    kind: str = 'conv'
    kernel_size: int = 1
    bias: bool | None = None
    always: bool = True

    def __str__(self) -> str:
        """Say what it is made of, in words."""
        size = f'{self.kernel_size}x{self.kernel_size}'
        if self.kind == 'conv':
            return f'{size} convolution'
        return f'{self.kind} of {size}'


@dataclass(frozen=True)
class Side:
    """One of two tensors that are compared.

    Args:
        argument: Of the loss.
        reference: What it reads.
        tensor: What that gave.
        role: How it arrives.
        labels: What the class logits of its member are, where that is known.
    """

    argument: str
    reference: Any
    tensor: Any
    role: Map
    labels: LabelSet | None = None

    @property
    def channels(self) -> int:
        """Length of its axis of channels; tokens (N, L, D) have it last."""
        return self.tensor.shape[2 if self.tokens else 1]

    @property
    def tokens(self) -> bool:
        """Whether it is one of tokens (N, L, D)."""
        return self.tensor.dim() == 3

    @property
    def says_classes(self) -> bool:
        """Whether it has as many channels as its member has classes, whatever the loss takes."""
        return self.labels is not None and self.labels.channels == self.tensor.shape[1]


def connect(
    objective: str, x: Side, like: Side, images: int | None, auto: Auto
) -> tuple[Connector, str]:
    """Return what fits a tensor to its counterpart, and what that does, in words.

    Args:
        objective: Name of the objective.
        x: What is brought.
        like: Its counterpart.
        images: How many images the batch holds, where that is known.
        auto: What was asked for.

    Raises:
        ValueError: Tensors that no connector fits to each other; other classes; channels of a
            teacher, which nothing would train.
    """
    _check_kinds(objective, x, like, images)
    convolve = 'channels' in x.role.alike and (auto.always or x.channels != like.channels)
    if convolve:
        _check_may_convolve(objective, x, like, auto)
    resize = 'size' in x.role.alike and not x.tokens and x.tensor.shape[2:] != like.tensor.shape[2:]
    width = like.channels if convolve else x.channels
    connector = Connector(
        x.channels,
        width if convolve else None,
        resize,
        x.tokens,
        kind=auto.kind,
        kernel_size=auto.kernel_size,
        bias=auto.bias,
    )
    if x.tokens:
        fitted = (x.tensor.shape[1], width)
    else:
        fitted = (width, *(like if resize else x).tensor.shape[2:])
    steps = [str(auto)] * convolve
    if resize:
        means = shrinks(x.tensor.shape[2:], like.tensor.shape[2:])
        steps.append('means of what is covered' if means else 'bilinear resize')
    done = ' and '.join(steps) or f'nothing (the {_why_nothing(x, like)})'
    said = f'{objective}: {x.argument} {tuple(x.tensor.shape[1:])} -> {fitted} by {done}'
    return connector.to(x.tensor.device), said


def differ_in_size_alone(x: Any, like: Any) -> bool:
    """Return whether two tensors are maps (N, C, H, W) of other places and nothing else.

    >>> import torch
    >>> differ_in_size_alone(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8))
    True
    """
    return (
        isinstance(x, Tensor)
        and isinstance(like, Tensor)
        and x.dim() == like.dim() == 4
        and x.shape[:2] == like.shape[:2]
        and x.shape != like.shape
    )


def is_auto(connector: Any) -> bool:
    """Return whether a connector is left to this module.

    >>> is_auto('auto'), is_auto('auto:conv-bn'), is_auto(dict(type='Connector'))
    (True, True, False)
    """
    if isinstance(connector, Mapping):
        return connector.get('type') == 'auto'
    return isinstance(connector, str) and connector.partition(':')[0] == 'auto'


def read_auto(where: str, connector: str | Mapping[str, Any]) -> Auto:
    """Return what :func:`is_auto` found: ``'auto'``, ``'auto:<kind>'`` or a config of that type.

    ``'auto'`` alone is a 1×1 convolution where channels differ; what is named is always there.

    Args:
        where: How errors call the objective.
        connector: What was given.

    Raises:
        TypeError: An unknown key.
        ValueError: An unknown kind, a kernel that would change the size.

    >>> read_auto('it', 'auto').always, read_auto('it', 'auto:conv-bn').kind
    (False, 'conv-bn')
    >>> read_auto('it', dict(type='auto', bias=False, always=False))
    Auto(kind='conv', kernel_size=1, bias=False, always=False)
    """
    where = f'{where}: connector {connector!r}'
    if isinstance(connector, str):
        kind = connector.partition(':')[2]
        auto = Auto(kind) if ':' in connector else Auto(always=False)
    else:
        check_keys(connector, AUTO_KEYS, where)
        auto = Auto(**{key: value for key, value in connector.items() if key != 'type'})
    try:
        check_kind(auto.kind, auto.kernel_size)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    return auto


def check_connectors(where: str, connectors: dict[str, Any], reads: Reads, loss: str) -> None:
    """Refuse connectors of what is not read, and 'auto' where there is nothing to fit.

    Args:
        where: How errors call the objective.
        connectors: Argument -> ``'auto'``, a config or a module.
        reads: What the objective reads.
        loss: Class of the loss.

    Raises:
        KeyError: A connector of an argument that is not read.
        ValueError: 'auto' of a loss that needs nothing alike, of a list, or without a counterpart.
    """
    for argument in connectors:
        if argument not in reads:
            raise KeyError(
                f'{where}: connectors name {argument!r}, which it does not '
                f'read{nearest(argument, reads)} (it reads {sorted(reads)})'
            )
        if argument in reads.of_batch:
            raise ValueError(
                f'{where}: connectors name {argument!r}, which is read of the batch, where nothing '
                'would connect it. Mend: leave it out'
            )
    for argument in filter(lambda name: is_auto(connectors[name]), connectors):
        if not reads.role(argument).alike:
            raise ValueError(
                f"{where}: connectors=dict({argument}='auto') would do nothing: {loss} needs its "
                'arguments to agree neither in channels nor in size (alike = ()). Mend: leave it '
                'out, or a connector of your own'
            )
        _check_layers(where, argument, connectors[argument], reads, loss)
        if isinstance(reads[argument], list) or not reads.counterpart(argument):
            raise ValueError(
                f"{where}: connectors=dict({argument}='auto') fits one map to another, but the "
                f'objective reads {dict(reads)}. Mend: a connector of your own, or the other side'
            )


def _check_layers(where: str, argument: str, connector: Any, reads: Reads, loss: str) -> None:
    """Refuse layers that are named where a loss compares no channels, or classes."""
    if not read_auto(where, connector).always:
        return
    role = reads.role(argument)
    if role.class_logits or 'channels' not in role.alike:
        why = 'compares classes' if role.class_logits else 'takes any channels'
        raise ValueError(
            f'{where}: connectors=dict({argument}={connector!r}) names layers, but {loss} {why}, '
            f"and nothing is to be learned between. Mend: connectors=dict({argument}='auto')"
        )


def _why_nothing(x: Side, like: Side) -> str:
    if x.tensor.shape == like.tensor.shape:
        return 'shapes agree'
    return f'loss needs the same {" and ".join(x.role.alike)}, no more'


def _check_kinds(objective: str, x: Side, like: Side, images: int | None) -> None:
    """Refuse tensors whose axis of channels is not known, or that are of different kinds."""
    if not isinstance(x.tensor, Tensor):
        raise ValueError(
            f"objective {objective!r}: connectors=dict({x.argument}='auto') fits one map, but "
            f'{x.argument} is a list of {len(x.tensor)}. Mend: a connector of your own, or one '
            'call of the module'
        )
    got = ', '.join(
        f'{side.argument}={side.reference!r} {shapes_of(side.tensor)}' for side in (x, like)
    )
    where = f"objective {objective!r}: connectors='auto'"
    kinds = {4: '(N, C, H, W)', 2: '(N, C)'} | ({3: '(N, L, D)'} if x.role.tokens else {})
    one, other = x.tensor, like.tensor
    if one.dim() not in kinds or other.dim() != one.dim():
        raise ValueError(
            f'{where} fits two tensors {" or ".join(kinds.values())} to each other, got {got}. '
            'Mend: taps of such tensors, or a connector of your own'
        )
    images = len(one) if images is None else images
    if one.dim() == 4 and not len(one) == len(other) == images:
        raise ValueError(
            f'{where} fits maps (N, C, H, W) of the N={images} images of the batch, got {got}: '
            'axis 1 is not that of channels. Mend: taps of maps, or a connector of your own'
        )
    if one.dim() == 3 and one.shape[1] != other.shape[1] and 'size' in x.role.alike:
        raise ValueError(
            f'{where} resizes no tokens (N, L, D), got {got}. Mend: taps over the same tokens, or '
            'a connector of your own'
        )


def _check_may_convolve(objective: str, x: Side, like: Side, auto: Auto) -> None:
    """Refuse a convolution between classes, and one that nothing would train."""
    where = f'objective {objective!r}: {x.argument} has'
    if x.role.class_logits or (x.says_classes and like.says_classes):
        raise ValueError(
            f'{where} {x.tensor.shape[1]} classes, {like.argument} {like.tensor.shape[1]}. '
            f'{OTHER_CLASSES}'
        )
    if auto.kernel_size > 1 and x.tensor.dim() != 4:
        raise ValueError(
            f'objective {objective!r}: {x.argument} {shapes_of(x.tensor)} has no neighbours for a '
            f'kernel of {auto.kernel_size}. Mend: kernel_size=1'
        )
    if not learns(x.argument):
        raise ValueError(
            f'{where} {x.channels} channels, {like.argument} {like.channels}; a connector of the '
            "teacher would never be trained. Mend: connectors=dict(student='auto')"
        )
