"""Taps: names for tensors inside a model, read while one forward runs."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.utils.checks import nearest

_GRAMMAR = re.compile(
    r'(?P<path>\w[\w.]*)(?:#(?P<call>\d+|\*))?(?::(?P<side>input|output|query|key))?'
    r'(?P<index>(?:\[-?\w+\])*)'
)
_EXAMPLES = (
    "'decode_head.conv_seg', 'decode_head.conv_seg:input', 'backbone[3]', 'head.conv#*', "
    "'attn:output[1]', "
    "'attn:query'"
)


@dataclass(frozen=True)
class TapPath:
    """A parsed tap: ``module[#call][:input|:output|:query|:key][index]…``.

    ``:query`` and ``:key`` of an ``nn.MultiheadAttention``, or of the self-attention of a BERT-like
    model of Hugging Face, are what its heads compare, (N, heads, tokens, d): from them attention is
    found where a fused kernel hides it, or where all of it would not fit. Padding is not in them:
    losses take it as ``key_mask``.

    >>> TapPath.parse('backbone[3]')
    TapPath(text='backbone[3]', module='backbone', call=None, side='output', index=(3,))
    >>> TapPath.parse('head.conv#1:input[x]').index
    ('x',)
    """

    text: str
    module: str
    call: str | None = None
    side: str = 'output'
    index: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> 'TapPath':
        """Parse ``text``.

        Raises:
            ValueError: the text does not follow the grammar.
        """
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            listed = ". Modules of a list are 'decode_head.1.conv_seg'" if '].' in str(text) else ''
            raise ValueError(
                'a tap is module[#call][:input|:output|:query|:key][index], for instance '
                f'{_EXAMPLES}; got {text!r}{listed}'
            )
        keys = re.findall(r'\[(-?\w+)\]', match['index'])
        index = tuple(int(k) if re.fullmatch(r'-?\d+', k) else k for k in keys)
        return cls(text, match['path'], match['call'], match['side'] or 'output', index)

    def select(self, value: Any, where: str, child: str = '') -> Any:
        """Follow the index into a module's input or output; ``child`` is the module that it may be meant for."""
        for step, key in enumerate(self.index):
            if isinstance(value, Tensor):
                offered = f'{child!r} for a child module, ' if child else ''
                raise TypeError(
                    f'{where}: the {self.side} is a Tensor of shape {tuple(value.shape)}, and '
                    f'[{key}] '
                    f"would take a sample of the batch. Mend: {offered}'{self.module}' for the "
                    f'whole '
                    'tensor'
                )
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError) as error:
                got = (
                    f' of {list(value)}'
                    if isinstance(value, dict)
                    else f' of {len(value)} items, [0] … [{len(value) - 1}]'
                    if hasattr(value, '__len__')
                    else ''
                )
                raise type(error)(
                    f'{where}: index {step} [{key}] is not in a {type(value).__name__}{got}. '
                    f'Mend: an '
                    'index that is there, in both members if both are read (FPN levels)'
                ) from None
        return value


@dataclass
class _Reading:
    """What one tap saw during one forward."""

    values: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


def _give_heads(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Make ``nn.MultiheadAttention`` return its attention by head (N, heads, Q, K); by itself it averages them."""
    late = dict(
        zip(
            ('need_weights', 'attn_mask', 'average_attn_weights', 'is_causal'),
            args[4:],
            strict=False,
        )
    )
    return args[:4], {**kwargs, **late, 'need_weights': True, 'average_attn_weights': False}


_LIBRARIES = ('torch', 'mmengine', 'mmseg', 'mmdet', 'mmpretrain', 'mmkd')


def is_loss(module: nn.Module) -> bool:
    """Return whether a module is a loss, an accuracy, or a list of them: it gives a number, and nothing to compare.

    >>> is_loss(nn.ModuleList([nn.CrossEntropyLoss()])), is_loss(nn.Softmax())
    (True, False)
    """
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return len(module) > 0 and all(is_loss(child) for child in module.children())
    package, *folders = type(module).__module__.split('.')
    return type(module).__name__.endswith('Loss') or (
        package in _LIBRARIES and bool({'loss', 'losses'} & {*folders})
    )


def tappable(modules: dict[str, nn.Module]) -> list[str]:
    """Return which modules of ``named_modules`` a tap may read: no losses, no containers without a forward.

    >>> tappable(dict(nn.Sequential(nn.ModuleList([nn.Linear(1, 1)]), nn.MSELoss()).named_modules()))
    ['0.0']
    """
    losses = _losses(modules)
    return [
        name
        for name, module in modules.items()
        if name and not _within(name, losses) and type(module).forward is not nn.Module.forward
    ]


def _losses(modules: dict[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if name and is_loss(module)]


def _within(path: str, owners: list[str]) -> bool:
    return any(f'{path}.'.startswith(f'{owner}.') for owner in owners)


def _child(modules: dict[str, nn.Module], path: str, key: int | str) -> str:
    """Return the path of the module that ``path[key]`` would be; '' where there is none.

    >>> _child(dict(nn.Sequential(nn.ModuleList([nn.ReLU(), nn.ReLU()])).named_modules()), '0', -1)
    '0.1'
    """
    module = modules.get(path)
    if (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and isinstance(key, int)
        and -len(module) <= key < len(module)
    ):
        return f'{path}.{range(len(module))[key]}'
    return f'{path}.{key}' if f'{path}.{key}' in modules else ''


def _dotted(modules: dict[str, nn.Module], text: str) -> str:
    """Return ``'head.1.conv'`` for ``'head[-1].conv'``, where there is such a module; '' otherwise."""
    path, *parts = re.split(r'\.|(?=\[)', text)
    for part in parts:
        index = re.fullmatch(r'\[(-?\d+)\]', part)
        path = _child(modules, path, int(index[1])) if index else f'{path}.{part}'
    return path if re.split('[#:]', path)[0] in modules else ''


# Self-attention of Hugging Face that is softmax(q·kᵀ/√d) and nothing else: no rotary or relative
# positions.
_PLAIN = (
    'Bert',
    'Roberta',
    'XLMRoberta',
    'Electra',
    'Albert',
    'RemBert',
    'Camembert',
    'ViT',
    'DeiT',
)


def _is_hugging_face(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ('query', 'key')]
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(
        module, 'num_attention_heads'
    )


def _drops(module: nn.Module) -> float:
    """Return the dropout of attention while a module trains, 0 where it has none."""
    for name in ('dropout', 'attention_dropout', 'dropout_prob'):
        found = getattr(module, name, 0.0)
        rate = found.p if isinstance(found, nn.Dropout) else found
        if module.training and isinstance(rate, int | float) and rate:
            return float(rate)
    return 0.0


def _project(module: nn.Module, side: str, x: Tensor) -> Tensor:
    """Return the queries or keys of ``nn.MultiheadAttention`` by head, (N, heads, tokens, d)."""
    part = ('query', 'key').index(side)
    if module._qkv_same_embed_dim:
        weight = module.in_proj_weight.chunk(3)[part]  # type: ignore[operator]
    else:
        weight = getattr(module, f'{side[0]}_proj_weight')
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[part]  # type: ignore[operator]
    x = nn.functional.linear(x if module.batch_first else x.transpose(0, 1), weight, bias)
    return x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


class Taps:
    """The taps of one model: hooks exist only while a ``recording()`` block runs.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> taps = Taps(model, dict(hidden='0'))
    >>> with taps.recording() as seen:
    ...     _ = model(torch.ones(1, 2))
    >>> tuple(taps.read(seen)['hidden'].shape), len(model[0]._forward_hooks)
    ((1, 3), 0)

    Args:
        model: The model; it is left as it was after each recording.
        paths: Tap name -> path, see :class:`TapPath`.
        where: How errors call the model.

    Raises:
        ValueError: A path does not follow the grammar, or names a loss.
        KeyError: A module does not exist; the message names the nearest ones.
    """

    def __init__(self, model: nn.Module, paths: dict[str, str], where: str = 'model') -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        self.model, self.where = model, where
        self.paths = {name: self._parse(name, path, modules) for name, path in paths.items()}
        self._meant = {
            name: _child(modules, path.module, path.index[0]) if path.index else ''
            for name, path in self.paths.items()
        }  # the module that an index may be meant for
        losses = _losses(modules)
        for name, path in self.paths.items():
            if path.module not in modules:
                raise KeyError(
                    f'{self._call(name)}: {where} has no module {path.module!r}'
                    f'{nearest(path.module, tappable(modules))}'
                )
            if _within(path.module, losses):
                raise ValueError(self._is_a_loss(name, modules, losses))

    def _parse(self, name: str, path: str, modules: dict[str, nn.Module]) -> TapPath:
        try:
            return TapPath.parse(path)
        except ValueError as error:
            dotted = _dotted(modules, path) if isinstance(path, str) else ''
            meant = f'. Mend: {dotted!r}' if dotted else ''
            raise ValueError(f'tap {name!r} of {self.where}: {error}{meant}') from None

    def _is_a_loss(self, name: str, modules: dict[str, nn.Module], losses: list[str]) -> str:
        path = self.paths[name].module
        loss = min((owner for owner in losses if _within(path, [owner])), key=len)
        parent = loss.rpartition('.')[0]
        others = [m for m in tappable(modules) if m.rpartition('.')[0] == parent] or tappable(
            modules
        )[-4:]
        return (
            f'{self._call(name)}: {loss!r} is a loss ({type(modules[loss]).__name__}): it gives a '
            f'number, and '
            f'nothing that could be compared. Mend: tap what comes before it, one of {others[:4]}'
        )

    def _call(self, name: str) -> str:
        return f"tap {name!r} of {self.where} ('{self.paths[name].text}')"

    @contextmanager
    def recording(self) -> Iterator[dict[str, _Reading]]:
        """Hook the modules for the forwards inside the block, and unhook them whatever happens."""
        seen, handles = self.hook()
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def hook(self) -> tuple[dict[str, _Reading], list[Any]]:
        """Install the hooks and return where they write, and their handles."""
        seen = {name: _Reading() for name in self.paths}
        # Looked up now: the Runner replaces SyncBN modules after the model was built.
        modules = {name: self.model.get_submodule(path.module) for name, path in self.paths.items()}
        return seen, [
            handle for name in seen for handle in self._hook_one(name, modules[name], seen[name])
        ]

    def _hook_one(self, name: str, module: nn.Module, reading: _Reading) -> list[Any]:
        path, where = self.paths[name], self._call(name)

        def take(value: Any) -> None:
            value = path.select(value, where, self._meant[name])
            if value is None:
                raise TypeError(
                    f'{where}: the {path.side} is a NoneType, not a Tensor. A fused attention '
                    f'kernel '
                    "returns None in place of probabilities. Mend: ':query' and ':key' in its "
                    'place; '
                    "options=dict(attn_implementation='eager') of a Hugging Face model, without "
                    'dropout '
                    'of attention; or another module'
                )
            if not isinstance(value, Tensor):
                size = f' of {len(value)}' if hasattr(value, '__len__') else ''
                key = '[0][i]' if path.side == 'input' and not path.index else '[i]'
                raise TypeError(
                    f'{where}: the {path.side} is a {type(value).__name__}{size}, not a Tensor. '
                    f"Mend: choose one with '{path.text}{key}'"
                )
            reading.values.append(value)
            if not torch.compiler.is_compiling():
                reading.versions.append(value._version)

        def take_input(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if not path.index:
                take(next(iter([*args, *kwargs.values()]), None))
            elif isinstance(path.index[0], int):
                take(args)
            else:
                named = path.index[0] in kwargs
                take(
                    kwargs
                    if named
                    else inspect.signature(module.forward).bind(*args, **kwargs).arguments
                )

        def take_heads(_: nn.Module, args: tuple, kwargs: dict) -> None:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            if given.get('attn_mask') is not None:
                raise ValueError(
                    f'{where}: this attention has an attn_mask, so its rows are not those of its '
                    f'queries '
                    "and keys. Mend: ':output[1]' with dropout 0"
                )
            take(_project(module, path.side, given[path.side]))

        if path.side in ('query', 'key') and _is_hugging_face(module):
            if not type(module).__name__.startswith(_PLAIN):
                raise TypeError(
                    f'{where}: a {type(module).__name__} is not known to attend by its queries '
                    f'and keys '
                    f'alone (rotary or relative positions come on top); known are '
                    f'{", ".join(_PLAIN)}. '
                    "Mend: ':output[1]' with attn_implementation='eager' and attention dropout 0"
                )
            heads = (int(module.num_attention_heads), -1)  # type: ignore[arg-type]
            return [
                getattr(module, path.side).register_forward_hook(
                    lambda _, args, output: take(output.unflatten(-1, heads).transpose(1, 2))
                )
            ]
        if path.side in ('query', 'key'):
            if (
                not isinstance(module, nn.MultiheadAttention)
                or module.bias_k is not None
                or module.add_zero_attn
            ):
                raise TypeError(
                    f'{where}: a {type(module).__name__} has no heads to read: queries and keys '
                    f'are those '
                    'of nn.MultiheadAttention, without bias_kv and zero attention, and of '
                    'self-attention '
                    'of Hugging Face. Mend: tap the linear layers that make them'
                )
            return [module.register_forward_pre_hook(take_heads, with_kwargs=True)]
        if path.side == 'input':
            return [module.register_forward_pre_hook(take_input, with_kwargs=True)]
        handles = [module.register_forward_hook(lambda _, args, output: take(output))]
        attends = isinstance(module, nn.MultiheadAttention)
        if path.index[:1] == (1,) and (attends or _is_hugging_face(module)):
            if _drops(module):
                raise ValueError(
                    f'{where}: in training these are probabilities after dropout of '
                    f'{_drops(module)}, '
                    "which do not sum to 1. Mend: ':query' and ':key' with "
                    'reads=dict(student_key=…, '
                    'teacher_key=…), or no dropout of attention'
                )
            if attends:
                handles.append(module.register_forward_pre_hook(_give_heads, with_kwargs=True))
        return handles

    def read(self, seen: dict[str, _Reading]) -> dict[str, Any]:
        """Return tap name -> tensor (a list of them for ``#*``) and check what happened.

        Raises:
            RuntimeError: A tap never ran, ran several times without ``#``, or was changed in place
                after it was read.
        """
        record: dict[str, Any] = {}
        for name, reading in seen.items():
            path, values = self.paths[name], reading.values
            if not values:
                raise RuntimeError(self._never_ran(name))
            if any(v._version != old for v, old in zip(values, reading.versions, strict=False)):
                raise RuntimeError(
                    f'{self._call(name)} was changed in place after it was read (an in-place ReLU '
                    f'or '
                    'add follows it). Mend: tap the module that makes the change, or set its '
                    'inplace=False'
                )
            if path.call is None and len(values) > 1:
                raise RuntimeError(
                    f'{self._call(name)} ran {len(values)} times in one forward. Mend: '
                    f"'{path.module}#0' … '{path.module}#{len(values) - 1}' for one call, "
                    f"'{path.module}#*' for the list"
                )
            if path.call not in (None, '*') and int(path.call) >= len(values):
                raise RuntimeError(
                    f'{self._call(name)}: the module ran {len(values)} times, so #{path.call} is '
                    f'not '
                    f'there. Mend: #0 … #{len(values) - 1}, in both members if both are read (FPN '
                    'levels)'
                )
            record[name] = list(values) if path.call == '*' else values[int(path.call or 0)]
        return record

    def _never_ran(self, name: str) -> str:
        path = self.paths[name]
        module = self.model.get_submodule(path.module)
        below = tappable(
            {f'{path.module}.{child}': m for child, m in module.named_modules() if child}
        )
        direct = [child for child in below if child.count('.') == path.module.count('.') + 1]
        children = (direct or below)[:4]
        if type(module).forward is nn.Module.forward:
            meant = self._meant[name]
            return (
                f'{self._call(name)} never ran: a {type(module).__name__} is a container and has '
                f'no forward. '
                f'Mend: {repr(meant) if meant else f"tap one of {children}"}'
            )
        return (
            f"{self._call(name)} never ran in this forward. A teacher runs mode='tensor', which "
            f'leaves out '
            f"auxiliary heads and losses; a student runs mode='loss'; and mmseg calls a head's "
            f'forward past its '
            f'hooks. Mend: tap a module that this forward runs'
            f'{", for instance one of " + str(children) if children else ""}'
        )
