"""A config that lies in a file as text is data."""

import math
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.utils.literals import read_config_text

CONFIGS = sorted((Path(__file__).parents[2] / 'configs').rglob('*.py'))[::7]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_reads_what_mmengine_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))
    text = Config.fromfile(path).pretty_text
    assert read_config_text(text, 'the text').to_dict() == Config.fromstring(text, '.py').to_dict()


def test_values() -> None:
    found = read_config_text(
        "a = -inf\nb = nan\nc = {1, 2}\nd = dict({'x.y': b'z'}, k=range(0, 4, 2))\n"
        "e = float('inf')",
        'the text',
    )
    assert found.e == math.inf
    assert found.a == -math.inf
    assert math.isnan(found.b)
    assert found.c == {1, 2}
    assert dict(found.d) == {'x.y': b'z', 'k': range(0, 4, 2)}


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        "a = __import__('os').mkdir('ran')",
        "a = open('ran', 'w')",
        'a = [x for x in (1, 2)]',
        'a = b',
        "a = dict(b=print('x'))",
        "a = eval('1')",
        "a = float('1.5')",
        "a = float(open('x'))",
        'a, b = 1, 2',
        'a = dict(**{})',
        'a = {**{}}',
        'a = f"{1}"',
        'a = lambda: 1',
        'def a(): pass',
        'a = 1 if True else 2',
        "a = 'x'.join(['y'])",
        'a = 9 ** 9',
        'a = range(b)',
        'a = {[1]}',
        'a = {[1]: 2}',
        "a = range('b')",
        'a = range()',
        'filename = 1',
        'a = ~inf',
        'a = not nan',
        'a = ' + 5000 * '[',
        'a = ' + 5000 * '-' + '1',
        'a = dict(1)',
        'a: int = 1',
        'a = (',
        '\0',
        'a = ' + '1' * 5000,
    ],
    ids=lambda text: text[:24],
)
def test_nothing_else_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=r'^meta\.cfg of a\.pth is no config of plain values \(.*\), and no string of '
        r'a file is executed\. Mend: ',
    ):
        read_config_text(text, 'meta.cfg of a.pth')
    assert not list(tmp_path.iterdir())


def test_a_text_of_many_characters() -> None:
    with pytest.raises(ValueError, match=r'the text has 5000000 characters'):
        read_config_text(5_000_000 * ' ', 'the text')
