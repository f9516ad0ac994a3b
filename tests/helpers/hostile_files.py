"""Checkpoint files written to do harm, in families, and an attack with all of them on a reader.

``PYTHONPATH=tests python tests/helpers/hostile_files.py [family …]`` counts what they do to mmkd's.
"""

import sys
from collections.abc import Callable, Iterator

from helpers.hostile import arrays, bombs, calls, containers, legacy, tensors
from helpers.hostile.assembler import Case
from helpers.hostile.attack import COUNTED, attack
from helpers.hostile.harmless import harmless

FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    family.__name__: family
    for family in (
        calls.dangerous_names,
        calls.opcodes,
        calls.protocols,
        calls.chains,
        calls.nested,
        arrays.forged_arrays,
        arrays.arrays_as_weights,
        arrays.numbers_as_weights,
        arrays.shared_dtypes,
        tensors.strides,
        tensors.storages,
        tensors.kinds,
        tensors.poisons,
        bombs.depth,
        bombs.lengths,
        bombs.amplified,
        bombs.stacks,
        bombs.keys,
        containers.compressed,
        containers.lies,
        containers.words,
        containers.doubles,
        containers.scripts,
        containers.cuts,
        containers.flips,
        legacy.old_format,
        legacy.old_lengths,
        legacy.tars,
    )
}
HARMLESS = harmless


def hostile_files(family: str) -> Iterator[Case]:
    """The files of one family, the same ones every time."""
    for case in FAMILIES[family]():
        yield Case(f'{family}-{_safe(case.name)}', case.data, case.refuse, case.accept)


def _safe(name: str) -> str:
    return ''.join(letter if letter.isalnum() or letter in '_.-' else '_' for letter in name)


def attack_all(families: list[str] | None = None) -> dict:
    """Attack mmkd's reader with every hostile file; returns what :func:`attack` does."""
    result: dict = dict(files=0, **{kind: [] for kind in COUNTED})
    for family in families or FAMILIES:
        part = attack(hostile_files(family))
        result = {key: value + part[key] for key, value in result.items()}
    return result


if __name__ == '__main__':
    found = attack_all(sys.argv[1:])
    for kind in COUNTED:
        print(f'--- {kind}')
        print('\n'.join(found[kind]))
    print(found['files'], 'files;', ', '.join(f'{len(found[kind])} {kind}' for kind in COUNTED))
