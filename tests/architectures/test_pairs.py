"""Any pair: a sample of what ``make zoo`` runs, and how its table is written."""

import importlib.util
from pathlib import Path

import pytest
from helpers.zoo import DETECTORS, ZOO, lacks
from helpers.zoo_cases import run_case

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location('table', Path(__file__).with_name('table.py'))
table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(table)
SAMPLE = ('segmenter', 'bisenetv2', 'det:fcos', 'det:detr')


@pytest.mark.slow
@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('name', SAMPLE)
def test_a_sample_does_as_the_page_says(name: str, role: str) -> None:
    missing = lacks({**ZOO, **{f'det:{det}': one for det, one in DETECTORS.items()}}[name])
    if missing:
        pytest.skip(f'{name} needs {missing}')
    found = run_case(name, role)
    said = table.rows_of((ROOT / 'docs/architectures.md').read_text())[name]
    assert table.told_of(found.record()) == said[table.ROLES.index(role)]
    assert found.verdict in ('works', 'features only')


@pytest.mark.bad_input
def test_vpd_is_refused_in_one_sentence() -> None:
    if not lacks(ZOO['vpd']):
        pytest.skip('latent-diffusion is here')
    found = run_case('vpd', 'student')
    assert found.verdict == 'refused'
    assert found.reason.startswith('student: To use VPD model, please install')


def test_the_page_names_every_architecture() -> None:
    rows = table.rows_of((ROOT / 'docs/architectures.md').read_text())
    assert list(rows) == [*ZOO, *(f'det:{name}' for name in DETECTORS)]
    for role in range(2):
        works = [row[role] for name, row in rows.items() if name in ZOO]
        assert works.count('works') >= 57, [row for row in works if row != 'works']


def test_rows_are_read_and_written() -> None:
    text = f'a\n{table.BEGIN}\n{table.HEAD}| x | works | wrong: 1 | `t` |\n{table.END}\nz\n'
    rows = table.rows_of(text)
    assert rows == {'x': ('works', 'wrong: 1', '`t`')}
    assert table.written(text, rows, ['y', 'x']) == text
    record = dict(role='student', verdict='refused', reason='a | b\n c', taps='')
    other = dict(role='teacher', verdict='works', reason='', taps='p, q')
    assert table.row_of([other, record]) == (r'refused: a \| b c', 'works', '`p`, `q`')
