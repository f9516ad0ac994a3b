"""Errors of mmengine's registries told anew: a misspelt type or argument, its nearest match."""

import inspect
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry
from torch.utils.data import DataLoader

from mmkd.utils.checks import nearest, printable

_UNKNOWN_TYPE = re.compile(
    r'(\S+) is not in the (\w+)::([\w ]+) registry\. Please check whether .*', re.DOTALL
)
_UNKNOWN_ARGUMENT = re.compile(
    r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'"
    r'( in <.* object at 0x\w+>)?'
)
# of mmcv, which forgets the name
_NO_LAYER = re.compile(r'Cannot find None in registry under scope name \w+')
_LAYER = (
    'the type of a norm_cfg, conv_cfg, act_cfg or upsample_cfg is not registered. Mend: a name '
    "such as 'BN', 'SyncBN', 'GN', 'LN'; 'Conv2d'; 'ReLU'"
)
_NO_TYPE = re.compile(
    r'`cfg` or `default_args` must contain the key "type", but got (\{.*)', re.DOTALL
)
_NO_INPUTS = 'inputs'  # of a KeyError: what every data preprocessor of mmengine asks a batch for


def retell(text: str) -> str:
    """Return what an error of a registry means; any other text as it is.

    >>> retell("ResNet.__init__() got an unexpected keyword argument 'depht'")
    "ResNet got an unknown argument 'depht'..."
    >>> retell('a sentence')
    'a sentence'
    """
    if text == _NO_INPUTS:
        return (
            "the batches have no 'inputs', which a model reads. Mend: a pipeline that ends in the "
            "packing of its library, such as dict(type='PackSegInputs')"
        )
    text = _NO_LAYER.sub(_LAYER, text)
    for pattern, told in (
        (_UNKNOWN_TYPE, _unknown_type),
        (_UNKNOWN_ARGUMENT, _unknown_argument),
        (_NO_TYPE, _no_type),
    ):
        text = pattern.sub(told, text)
    return text


def _unknown_type(found: re.Match) -> str:
    name, scope, kind = found.groups()
    bare = name.rpartition('.')[-1]
    registries = list(_registries(kind))
    homes = sorted({one.scope for one in registries if bare in one.module_dict})
    names = sorted({known for one in registries for known in one.module_dict})
    mend = (
        f'. Mend: a registered name{nearest(bare, names, otherwise=".")} What is your own is '
        'registered by custom_imports'
    )
    if homes:
        full = f'{homes[0]}.{bare}'
        mend = (
            f'; it belongs to {", ".join(homes)}. Mend: default_scope={homes[0]!r}, or '
            f'type={full!r}'
        )
    return f'{scope} has no {kind} {name!r}{mend} ({name} is not in the {scope}::{kind} registry)'


def _unknown_argument(found: re.Match) -> str:
    name, argument = found.group(1), found.group(2)
    registered = (kind for one in _registries() for kind in one.module_dict.values())
    classes: list[Any] = [DataLoader, *registered]
    allowed = next((_arguments(c) for c in classes if getattr(c, '__name__', '') == name), [])
    said = f' (allowed: {", ".join(allowed)})' if allowed else ''
    return f'{name} got an unknown argument {argument!r}{nearest(argument, allowed)}{said}'


def _no_type(found: re.Match) -> str:
    return (
        'a part of the config has no type, so nothing says what to build: '
        f"{printable(found.group(1), 100)} ... Mend: type='...' in it"
    )


def _arguments(kind: Any) -> list[str]:
    """Return the arguments of a class, of its parents too where it hands on unknown ones."""
    found: dict[str, None] = {}
    for one in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if '__init__' not in vars(one):
            continue
        own = inspect.signature(vars(one)['__init__']).parameters.values()
        named = (p.name for p in own if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        found.update(dict.fromkeys(named))
        if all(p.kind != p.VAR_KEYWORD for p in own):
            break
    return [name for name in found if name != 'self']


def _registries(kind: str | None = None) -> Iterator[Registry]:
    """Yield mmengine's registries and their children, of one kind or of all."""
    for registry in vars(root).values():
        if isinstance(registry, Registry) and kind in (None, registry.name):
            for one in (registry, *registry.children.values()):
                # a library that does not import here has no names; one that does may print
                with suppress(Exception), redirect_stdout(StringIO()):
                    if kind is not None:
                        one.import_from_location()
                yield one
