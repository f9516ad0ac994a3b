"""A checkpoint file is data: hostile ones run, break and change nothing, and honest ones load."""

import faulthandler
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hostile_files
from helpers.hostile import attack as attacks
from helpers.hostile.assembler import HONEST, Case, archive, checkpoint
from helpers.hostile.attack import COUNTED, attack
from helpers.hostile.harmless import saved
from mmengine.logging import HistoryBuffer

NOTHING: dict[str, list[str]] = {kind: [] for kind in COUNTED}


def counted(result: dict) -> dict:
    return {kind: result[kind] for kind in COUNTED}


# --- the reader -----------------------------------------------------------------------------------


@pytest.mark.hostile_file
@pytest.mark.parametrize('family', hostile_files.FAMILIES)
def test_hostile_files_do_nothing(family: str, record_property: Callable) -> None:
    result = hostile_files.attack_all([family])
    record_property('tried', result['files'])
    record_property('failed', sum(map(len, counted(result).values())))
    assert counted(result) == NOTHING
    assert result['files'] > 0


def test_harmless_files_load() -> None:
    result = attack(hostile_files.HARMLESS(), load=True)
    assert counted(result) == NOTHING
    assert result['files'] >= 40


def test_the_files_are_many_and_the_same_every_time() -> None:
    first, again = (
        [case for family in hostile_files.FAMILIES for case in hostile_files.hostile_files(family)]
        for _ in range(2)
    )
    assert [(case.name, case.data) for case in first] == [(case.name, case.data) for case in again]
    assert len({case.name for case in first}) == len(first)
    assert len({case.data for case in first}) >= 1200


# --- the attack itself finds what it looks for ----------------------------------------------------


def trusting(file: Path) -> Any:
    """Read as pickle does; errors are clear, so that what is found is what was run."""
    try:
        return torch.load(file, map_location='cpu', weights_only=False)
    except Exception as error:
        raise RuntimeError(f'{file.name}: {type(error).__name__}') from error


def trusting_weights(file: Path) -> Any:
    content = trusting(file)
    if not isinstance(content, dict) or not isinstance(content.get('state_dict'), dict):
        raise TypeError(f'{file.name} holds no weights')
    return content['state_dict']


CAUGHT = {
    'dangerous_names-os.system': 'did os.system',
    'dangerous_names-os.abort': 'SIGABRT',
    'dangerous_names-sys.exit': 'raised SystemExit',
    'dangerous_names-os.chdir': 'did os.chdir',
    'dangerous_names-a_stranger.x': "did import('hostile_import'",
    'dangerous_names-builtins.eval': 'did compile',
    'dangerous_names-builtins.open': 'did open',
    'dangerous_names-builtins.print': 'printed',
    'dangerous_names-subprocess.Popen': 'did subprocess.Popen',
    'dangerous_names-torch.set_default_dtype': 'changed default type',
    'dangerous_names-sys.setrecursionlimit': 'changed recursion',
    'dangerous_names-urllib.request.urlopen': 'did urllib.Request',
    'dangerous_names-ctypes.string_at': 'did ctypes.string_at',
    'dangerous_names-pickle.loads': 'did os.system',
    'opcodes-canary_newobj': 'called new',
    'opcodes-canary_inst': 'called init',
    'opcodes-canary_obj': 'called init',
    'opcodes-canary_newobj_ex': 'called new',
    'opcodes-other_setstate': 'called setstate',
    'opcodes-other_appends': 'called extend',
    'opcodes-other_hash': 'called hash',
    'opcodes-system_stack_global': 'did os.system',
    'chains-posix_path': 'did os.system',
    'chains-partial': 'did os.system',
    'chains-attrgetter': 'did os.system',
    'protocols-system_0_old': 'did os.system',
    'protocols-eval_5_archive': 'did compile',
}


def test_a_trusting_reader_is_caught() -> None:
    cases = {
        case.name: case
        for family in ('dangerous_names', 'opcodes', 'chains', 'protocols')
        for case in hostile_files.hostile_files(family)
    }
    result = attack([cases[name] for name in CAUGHT], (trusting, trusting_weights))
    caught = {text.split(':')[0]: text for text in result['harmful']}
    for name, what in CAUGHT.items():
        assert what in caught.get(name, ''), (name, caught.get(name))


def busy(file: Path) -> None:
    end = time.process_time() + 1.2
    while time.process_time() < end:
        pass
    raise RuntimeError(f'{file.name} is no checkpoint')


def hungry(file: Path) -> None:
    bytearray(b'x' * (300 * 2**20))  # written: zeros would only be asked for
    raise RuntimeError(f'{file.name} is no checkpoint')


def asking(file: Path) -> None:
    torch.empty(5 * 2**27)  # 2.5 GiB: the process may give back some of its own meanwhile
    raise RuntimeError(f'{file.name} is no checkpoint')


def dying(file: Path) -> None:
    faulthandler._sigsegv()


def poisoning(file: Path) -> None:
    HistoryBuffer.statistics = None  # type: ignore[assignment,method-assign]
    raise RuntimeError(f'{file.name} is no checkpoint')


def writing(file: Path) -> None:
    os.close(os.open('left_behind', os.O_CREAT))
    raise RuntimeError(f'{file.name} is no checkpoint')


def nameless(file: Path) -> None:
    raise ValueError('broken')


def talkative(file: Path) -> None:
    raise ValueError(f'{file.name}\nis broken')


def wrong_kind(file: Path) -> None:
    raise KeyError(file.name)


def endless(file: Path) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ('what', 'kind', 'told'),
    [
        (busy, 'slow', r'odd: 1\.\d s'),
        (hungry, 'greedy', r'odd: \d+ MB, asked for \d+ MB'),
        (asking, 'greedy', r'odd: \d+ MB, asked for 2\d\d\d MB'),
        (dying, 'harmful', 'ended the process: SIGSEGV'),
        (writing, 'harmful', 'left left_behind'),
        (nameless, 'unclear', 'does not name the file'),
        (talkative, 'unclear', 'not one printable line'),
        (wrong_kind, 'unclear', 'raised KeyError'),
        (endless, 'slow', 'no end after 3 s'),
        (poisoning, 'harmful', r'changed mmengine\..*HistoryBuffer\.statistics'),
    ],
)
def test_each_kind_of_harm_is_found(
    what: Any, kind: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what is endless:
        monkeypatch.setattr(attacks, 'PATIENCE', 3.0)
    readers = tuple(
        (lambda file, read=read: what(file) if file.name == 'odd.pth' else read(file))
        for read in (trusting, trusting_weights)
    )
    good = [Case(name, archive(checkpoint())) for name in ('before', 'odd', 'after')]
    result = attack(good, readers)
    assert result['files'] == 3
    assert len(result[kind]) == 1, result
    assert re.search(told, result[kind][0]), result
    assert all(text.startswith('odd') for each in COUNTED for text in result[each]), result


def test_wrong_weights_are_found() -> None:
    other = {**HONEST, 'conv.bias': HONEST['conv.bias'] + 1}
    shown = {**HONEST, 'conv.bias': torch.zeros(1).expand(4)}
    grown = saved({'state_dict': HONEST, 'meta': torch.zeros(1).expand(4)})
    result = attack(
        [
            Case('other', saved({'state_dict': other})),
            Case('shown', saved({'state_dict': shown})),
            Case('grown', grown),
            Case('fine', saved({'state_dict': HONEST})),
            Case('refused', saved({'state_dict': HONEST}), refuse=True),
        ],
        (trusting, trusting_weights),
    )
    assert result['harmful'] == [
        'other: weights: gave another conv.bias',
        'shown: content: shows 16 bytes and has 4; weights: shows 16 bytes and has 4',
        'grown: content: shows 16 bytes and has 4',
        'refused: weights: was not refused',
    ]


def test_a_refusal_of_an_honest_file_is_found() -> None:
    result = attack([Case('cut', saved(HONEST)[:-1])], (trusting, trusting_weights), load=True)
    assert result['harmful'] == [
        "cut: did not load: ['cut.pth: RuntimeError', 'cut.pth: RuntimeError']"
    ]
    assert 'hostile_import' not in sys.modules
