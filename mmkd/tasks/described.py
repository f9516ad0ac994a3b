"""A model as its config describes it, before it is built."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS

from mmkd.registry import MODELS
from mmkd.utils.kinds import bare_name


class Described:
    """What a config describes: its attributes are the config's keys, then its class's defaults.

    Parts are described in turn; a list of parts becomes a list. What is None is not there, as in a
    model without a neck. Nothing is built, so that a model of any size costs nothing.

    Args:
        config: ``dict(type=…, …)``.
        scope: The registry scope that its types belong to.

    >>> model = Described(dict(type='EncoderDecoder', neck=None, decode_head=dict(num_classes=19)))
    >>> model.decode_head.num_classes, hasattr(model, 'neck'), model.type_name
    (19, False, 'EncoderDecoder')
    """

    def __init__(self, config: Mapping[str, Any], scope: str = 'mmseg') -> None:
        self._config, self._scope = config, config.get('_scope_') or scope

    @property
    def type_name(self) -> str:
        """Name of its class, without scope; '' where the config has none."""
        return bare_name(self._config.get('type'))

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):  # of copy and pickle, before there is a config
            raise AttributeError(name)
        value = self._config[name] if name in self._config else self._default(name)
        if value is None:
            raise AttributeError(f'{self.type_name or "the config"} has no {name!r}')
        return self._describe(value)

    def _describe(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return Described(value, self._scope)
        if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            return [Described(one, self._scope) for one in value]
        return value

    def _default(self, name: str) -> Any:
        """Return the default of an argument of the class; None where class or argument is not."""
        kind = self._config.get('type')
        if isinstance(kind, str):
            found = None
            # a library that is not here or does not import, a name that nobody registered
            with suppress(Exception), ROOT_MODELS.switch_scope_and_registry(self._scope) as models:
                found = models.get(kind)
            kind = MODELS.module_dict.get(kind) if found is None else found
        return None if kind is None else default_of(kind, name)


def default_of(kind: Any, name: str) -> Any:
    """Return the default of an argument that a class, or one that it hands on to, has; else None.

    >>> class Base:
    ...     def __init__(self, depth=18): ...
    >>> class Deep(Base):
    ...     def __init__(self, width, **kwargs): ...
    >>> default_of(Deep, 'depth'), default_of(Deep, 'width')
    (18, None)
    """
    for each in getattr(kind, '__mro__', ()):
        if '__init__' not in vars(each):
            continue
        parameters = inspect.signature(each.__init__).parameters
        if name in parameters:
            default = parameters[name].default
            return None if default is inspect.Parameter.empty else default
        if all(one.kind != one.VAR_KEYWORD for one in parameters.values()):
            return None
    return None
