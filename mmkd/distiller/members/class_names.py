"""Names of the classes that a member knows, as its data set says them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mmengine.registry import DATASETS as ROOT_DATASETS

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def class_names(given: Any, cfg: Any, scope: str, where: str) -> tuple[str, ...]:
    """Return the names of the classes that a member knows; () where nothing says them.

    Args:
        given: The member's own ``classes=``: a list of names, or the type of a data set.
        cfg: The config that it comes from, None without one.
        scope: The registry scope of that config.
        where: How errors call the member.

    Raises:
        TypeError: ``classes`` is neither a list of names nor a type.
        KeyError: There is no such data set.

    >>> class_names(['road', 'sky'], None, 'mmseg', 'teacher')
    ('road', 'sky')
    >>> class_names('CityscapesDataset', None, 'mmseg', 'teacher')[:2]
    ('road', 'sidewalk')
    """
    if given is None:
        return next((found for found in map(_said, _datasets(cfg, scope)) if found), ())
    if isinstance(given, str):
        found = _said((dict(type=given), scope))
        if not found:
            raise KeyError(
                f'classes of {where}: {given!r} is no data set whose METAINFO names classes. Mend: '
                "'CityscapesDataset', 'ADE20KDataset', 'mmkd.CamVid', or a list of names"
            )
        return found
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise TypeError(
            f"classes of {where} must be a list of names or a data set's type, got {given!r:.80}. "
            "Mend: classes=['road', 'sky'], or classes='CityscapesDataset'"
        )
    return tuple(given)


def _datasets(cfg: Any, scope: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the data sets of a config, each as the innermost one that it is made of."""
    for loader in _LOADERS if cfg is not None else ():
        found: Any = (cfg.get(loader) or {}).get('dataset')
        while isinstance(found, Mapping) and ('dataset' in found or found.get('datasets')):
            found = found['dataset'] if 'dataset' in found else found['datasets'][0]
        if isinstance(found, Mapping):
            yield found, scope


def _said(dataset: tuple[Mapping[str, Any], str]) -> tuple[str, ...]:
    """Return the classes that a data set's config names, else those of its type."""
    config, scope = dataset
    own, kind = config.get('metainfo'), config.get('type')
    if not (isinstance(own, Mapping) and own.get('classes')):
        own = None
        # a library that is not here or does not import
        with (
            suppress(Exception),
            ROOT_DATASETS.switch_scope_and_registry(scope) as datasets,
        ):
            found: Any = datasets.get(kind) if isinstance(kind, str) else kind
            own = getattr(found, 'METAINFO', None)
    names = (own or {}).get('classes') or ()
    return tuple(names) if not isinstance(names, str) else ()
