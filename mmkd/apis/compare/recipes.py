"""Rows that are recipes of their own: read, and held against what the pair is tested on."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.apis.compare.settings import MIXED, add_recorders, is_mixed, named
from mmkd.apis.compare.specs import Spec
from mmkd.apis.compare.tuning import images_of
from mmkd.apis.prepare import is_distiller
from mmkd.apis.settings import check_groups
from mmkd.distiller.members.member import Member
from mmkd.utils.checkpoints import existing_file
from mmkd.utils.config_file import read_config
from mmkd.utils.kinds import is_made, is_stored

# of a data set, what changes nothing of what is tested
BESIDE = ('test_mode', 'lazy_init', 'serialize_data')
# of a loader, what leaves images out
LEAVING_OUT = ('num_batch_per_epoch', 'drop_last')
SPLITS = ('test', 'val')
NOTHING = 'not there'
Difference = tuple[str, Any, Any]


def read_recipe_config(spec: Spec) -> Config:
    """Return the config of a recipe as it is, with the hooks that write what a run took.

    Args:
        spec: The row.

    Raises:
        FileNotFoundError: The file is not there, or a checkpoint of a member; names the nearest.
        ValueError: It trains or tests nothing.
    """
    path = str(spec.recipe)
    cfg = read_config(path)
    check_groups(cfg)
    for key, what in (('train_dataloader', 'trained'), ('test_dataloader', 'tested')):
        if cfg.get(key) is None:
            raise ValueError(
                f'{path}: every row is trained and tested, but by this recipe nothing is {what}: '
                f'it has no {key}. Mend: a config that mmkd train and mmkd test take'
            )
    if is_mixed(cfg) and not is_distiller(cfg):
        raise ValueError(
            f'{path}: its model is no Distiller and learns from labels alone, but its training set '
            f'holds images without labels ({MIXED}). Mend: train_dataloader.dataset is the '
            'labelled set itself, with the InfiniteSampler; or the row alone, of the pair'
        )
    check_files(cfg, path)
    add_recorders(cfg)
    return cfg


def check_files(cfg: Config, path: str) -> None:
    """Refuse members and weights that are not there now, not when their row is reached.

    Args:
        cfg: The config, of a Distiller or of anything else, which has no members.
        path: Where it lies.

    Raises:
        FileNotFoundError: A config or a checkpoint is not there; names the nearest.
        TypeError: A member that is none.
        ValueError: A teacher without weights.
    """
    weights = cfg.get('load_from')
    if weights is not None and '://' not in str(weights):
        try:
            existing_file(Path(weights))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{path}, load_from: {error}') from error
    model = cfg.model.to_dict()
    for role in ('student', 'teacher'):
        for name, value in named(model, role).items():
            if is_made(value) or is_stored(value):
                continue
            try:
                weights = Member.parse(name, role, value).checkpoint
                if weights is not None and '://' not in weights:
                    existing_file(Path(weights))
            except (FileNotFoundError, TypeError, ValueError) as error:
                raise type(error)(f'{path}, {role} {name!r}: {error}') from error


def teaches(cfg: Config) -> bool:
    """Return whether a config has objectives, or a method that brings some."""
    return bool(cfg.model.get('objectives') or cfg.model.get('method'))


# ---------------------------------------------------------------------- what is tested


def check_same_test(pair: Config, recipe: Config, spec: Spec) -> None:
    """Refuse a recipe that is tested on something else than the pair.

    Args:
        pair: Config of the pair.
        recipe: Config of a run of the recipe.
        spec: Its row.

    Raises:
        ValueError: Names what differs, in both.
    """
    _check_same('test', pair, recipe, spec)


def check_same_validation(pair: Config, recipe: Config, spec: Spec) -> None:
    """As :func:`check_same_test`, of the validation set, by which weights are tuned.

    Raises:
        ValueError: Names what differs, in both.
    """
    _check_same('val', pair, recipe, spec)


def _check_same(split: str, pair: Config, recipe: Config, spec: Spec) -> None:
    first = next(differences_of(split, pair, recipe), None)
    if first is None:
        return
    where, own, other = first
    verb = dict(test='tested', val='validated')[split]
    raise ValueError(
        f'{spec.text} is {verb} otherwise than the pair, so that their numbers say nothing of each '
        f'other: {where} is {_short(own)} in {pair.filename}, {_short(other)} in {spec.recipe}. '
        f"Mend: the pair's {split}_dataloader.dataset, {split}_evaluator and {split}_cfg in the "
        'recipe (--cfg-options changes those of the pair alone)'
    )


def differences_of(split: str, pair: Config, recipe: Config) -> Iterator[Difference]:
    """Yield in what two configs differ of that which decides on a metric.

    Args:
        split: ``'test'`` or ``'val'``.
        pair: One config.
        recipe: The other one.

    Yields:
        Where, and both values.
    """
    one, other = (_evaluated(cfg, split) for cfg in (pair, recipe))
    yield from _differences(one, other, '')


def digests_of_sets(cfg: Config) -> dict[str, str]:
    """Return for each split a digest of what decides on its metrics, as a record holds it.

    Args:
        cfg: Config of a run.

    >>> one = dict(test_dataloader=dict(batch_size=1, dataset=dict(type='A', size=(2, 3))))
    >>> other = dict(test_dataloader=dict(dataset=dict(size=[2, 3], type='A'), batch_size=7))
    >>> digests_of_sets(Config(one)) == digests_of_sets(Config(other))
    True
    """
    return {split: _digest(_evaluated(cfg, split)) for split in SPLITS}


def _digest(settings: Any) -> str:
    """Return a digest in which neither the order of keys counts nor lists differ from tuples."""
    text = json.dumps(settings, sort_keys=True, default=_named)
    return hashlib.sha256(text.encode()).hexdigest()


def _named(value: Any) -> str:
    # the repr of a function holds an address, another one in every process
    return getattr(value, '__qualname__', None) or repr(value)


def _evaluated(cfg: Config, split: str) -> dict[str, Any]:
    """Return data set, metrics and loop of a split; nothing of one that is not there."""
    settings = cfg.to_dict()
    loader = settings.get(f'{split}_dataloader')
    if loader is None:
        return {f'{split}_dataloader': None}
    metrics = settings.get(f'{split}_evaluator')
    loop = dict(type=f'{split.capitalize()}Loop', fp16=False)
    left_out = {key: loader[key] for key in LEAVING_OUT if loader.get(key)}
    if left_out:  # it depends on the batch which images these are
        left_out['batch_size'] = loader.get('batch_size')
    return {
        f'{split}_dataloader': dict(dataset=images_of(loader.get('dataset'), BESIDE), **left_out),
        f'{split}_evaluator': [metrics] if isinstance(metrics, dict) else metrics,
        f'{split}_cfg': {**loop, **(settings.get(f'{split}_cfg') or {})},
    }


def _differences(one: Any, other: Any, where: str) -> Iterator[Difference]:
    """Yield the places at which two values differ.

    >>> list(_differences(dict(a=[1, dict(b=2)]), dict(a=(1, dict(b=3)), c=4), ''))
    [('a.1.b', 2, 3), ('c', 'not there', 4)]
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            place = f'{where}.{key}' if where else str(key)
            yield from _differences(one.get(key, NOTHING), other.get(key, NOTHING), place)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield where, one, other
            return
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differences(a, b, f'{where}.{index}')
    elif one != other:
        yield where, one, other


def _short(value: Any) -> str:
    return value if value is NOTHING else f'{value!r:.60}'
