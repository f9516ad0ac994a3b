"""Write the tables of comparisons into the pages, from what ``mmkd compare`` put on record.

python docs/tables.py                     writes every table again
python docs/tables.py NAME=WORK_DIR …     first takes the numbers of a comparison over
python docs/tables.py --check             writes nothing; exits with 1 where a page is stale

The picture of a table, ``images/NAME.png``, is drawn of the same numbers where a page shows it,
when the numbers are taken over. A page holds
``<!-- table NAME: COMMAND -->``, on one line or more, and ``<!-- end of table NAME -->``; what
stands between them is the command, the table and its notes. A README of ``configs/`` holds
``<!-- seeds NAME: ROW ROW … -->`` and ``<!-- end of seeds NAME -->``; between them stand these rows
of the comparison, seed by seed.

A ± in the text of :data:`PROVEN` is looked for in the records: it is the mean of a row over its
seeds, or the gain of one row on another of its table. So is each decimal number in the text of
:data:`MEASURED`, among those of the tables of its section: tests, validations, gains, seconds and
what they are beside another row's. Where it is of another table, a section has
``<!-- numbers of records: NAME NAME … -->``; where it is of none, as a loss of a log or a result of
a paper, ``<!-- numbers of no record: NUMBER … -->``. What is in none is printed, and exits with 1.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from itertools import permutations
from pathlib import Path, PurePath
from statistics import mean, stdev
from textwrap import fill
from typing import Any

from mmkd.apis.compare.plot import draw_rows, in_order
from mmkd.apis.compare.specs import ALONE
from mmkd.apis.compare.table import cells_of
from mmkd.apis.report import Table, as_markdown, digits
from mmkd.utils.checks import check_choice, printable

DOCS = Path(__file__).parent
ROOT = DOCS.parent
RECORDS = DOCS / 'records'
PLACE = re.compile(
    r'(?P<begin><!-- (?P<kind>table|seeds) (?P<name>[\w-]+):\s(?P<what>.+?) -->\n).*?'
    r'(?P<end><!-- end of (?P=kind) (?P=name) -->)',
    re.DOTALL,
)
LEFT_OUT = ('memory',)
KEPT = ('s a run', 'iterations')  # of a comparison, beside the tests by seed
LONGEST = 60  # letters of a file's name that leave a line of five seeds within its page
BEST = 'Best on'  # begins the note that names a file of the work dir
PROVEN = ('README.md', 'docs/results.md', 'docs/what_to_use.md', 'docs/data_beats_losses.md')
MEASURED = 'docs/results.md'
SECTION = re.compile(r'^(?=##+ )', re.MULTILINE)
SOURCES = re.compile(r'<!-- numbers of (records|no record): (.+?) -->\n', re.DOTALL)
CODE = re.compile(r'`[^`]*`|\]\([^)]*\)')  # of options and links
NUMBER = re.compile(r'(?<![\w.,/])\d+\.\d+(?![\w.]*\d)')
SPENT = ('step_ms', 'step_processor_ms', 'seconds', 'processor_seconds')
SPREAD = re.compile(r'(\d+\.\d+)\s±\s(\d+\.\d+)')


def take_over(name: str, work_dir: Path) -> None:
    """Copy the numbers of a comparison, without the records of its runs."""
    found = json.loads((work_dir / 'compare.json').read_text())
    found.pop('records')
    found['notes'] = notes_of(found)
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f'{name}.json').write_text(json.dumps(found, indent=1) + '\n')


def picture_of(name: str) -> None:
    """Draw the rows of a comparison."""
    found = json.loads((RECORDS / f'{name}.json').read_text())
    with tempfile.TemporaryDirectory() as folder:
        draw_rows(found['rows'], found['metric'], found['teacher'], Path(folder) / name)
        shutil.copyfile(Path(folder) / f'{name}.png', DOCS / 'images' / f'{name}.png')


def table_of(name: str, command: str) -> str:
    """Return the command, the table, best rows first, and what it says of its numbers."""
    found: dict[str, Any] = json.loads((RECORDS / f'{name}.json').read_text())
    order = in_order(found['rows'], found['metric'])
    order.sort(key=lambda row: row['method'] != ALONE)  # which stands first
    titles, lines = cells_of(order, found['metric'], found['teacher'])
    lengths = {tuple(row['iterations']) for row in order}
    drop = {*LEFT_OUT, *(['iterations'] if len(lengths) == 1 else [])}
    if all(row['factor'] in (None, 1) for row in order):
        drop.add('weights')
    keep = [index for index, title in enumerate(titles) if title not in drop]
    cells = [[line[index] for index in keep] for line in lines]
    heads = [titles[index].replace(', processor', ', CPU') for index in keep]  # of lines in pages
    table = as_markdown(Table(heads, cells, [], found['metric']))
    told = fill(' '.join(found['notes']), 120, break_on_hyphens=False)
    return f'```bash\n{wrapped(command)}\n```\n\n{table.strip()}\n\n{told}\n'


def seeds_of(name: str, wanted: Sequence[str]) -> str:
    """Return rows of a comparison, seed by seed.

    Raises:
        ValueError: A row that the comparison has not.
    """
    found: dict[str, Any] = json.loads((RECORDS / f'{name}.json').read_text())
    known = {row['method']: row for row in found['rows']}
    for row in wanted:
        check_choice('row', row, known)
    rows = [known[row] for row in wanted]
    places = digits([value for row in rows for value in row['test']])
    titles, lines = cells_of(rows, found['metric'], None)
    keep = [index for index, title in enumerate(titles) if title.startswith(KEPT)]
    seeds = max((row['seeds'] for row in rows), key=len)
    head = ['row', f'seeds {", ".join(map(str, seeds))}', titles[1], *(titles[k] for k in keep)]
    cells = [
        [label_of(row), tests_of(row, seeds, places), line[1], *(line[k] for k in keep)]
        for row, line in zip(rows, lines, strict=True)
    ]
    return as_markdown(Table(head, cells, [], found['metric'])).strip() + '\n'


def label_of(row: dict[str, Any]) -> str:
    """Return what a README calls a row: its recipe, if it has one of its own that is short.

    >>> label_of(dict(method='alone', recipe=None)), label_of(dict(method='kd', recipe=None))
    ('the student alone', '`kd`')
    >>> label_of(dict(method='few', recipe='configs/ksanc/few.py'))
    '`few.py`'
    """
    file = PurePath(row['recipe'] or '').name
    if 0 < len(file) <= LONGEST:
        return f'`{file}`'
    return 'the student alone' if row['method'] == ALONE else f'`{row["method"]}`'


def tests_of(row: dict[str, Any], seeds: Sequence[int], places: int) -> str:
    """Return the tests of a row by seed; what was not run is a dash.

    >>> tests_of(dict(seeds=[0, 2], test=[20.35, 20.96]), [0, 1, 2], 2)
    '20.35, –, 20.96'
    """
    known = dict(zip(row['seeds'], row['test'], strict=True))
    return ', '.join(f'{known[seed]:.{places}f}' if seed in known else '–' for seed in seeds)


def notes_of(found: dict[str, Any]) -> list[str]:
    """Return what a comparison says of its numbers, without the places where it ran.

    >>> notes_of(dict(rows=[dict(method='few', recipe='work_dirs/few.py')], notes=[
    ...     'Recipes of their own: few (work_dirs/few.py).', 'Best on the test set: x.py.']))
    ['Recipes of their own: few (few.py).']
    """
    notes = [note for note in found['notes'] if not note.startswith(BEST)]
    for row in found['rows']:
        path = row.get('recipe')
        if path is not None:
            name = PurePath(path.split('::')[-1]).name
            notes = [note.replace(f'({printable(path)})', f'({name})') for note in notes]
    return notes


def wrapped(command: str, width: int = 110) -> str:
    r"""Return a command on lines that a shell takes for one.

    >>> print(wrapped('mmkd compare pair.py --seeds 0 1 2', 20))
    mmkd compare pair.py \
        --seeds 0 1 2
    """
    lines = ['']
    for word in command.split():
        if len(lines[-1]) + len(word) > width:
            lines.append('   ')
        lines[-1] += f' {word}' if lines[-1] else word
    return ' \\\n'.join(lines)


def unproven(text: str, known: set[tuple[str, str]]) -> list[str]:
    """Return each ``mean ± spread`` of a text that is not known.

    >>> unproven('gains 2.0 ± 0.3 points, and 1.0 ± 0.3', {('2.0', '0.3')})
    ['1.0 ± 0.3']
    """
    return [f'{one} ± {sd}' for one, sd in SPREAD.findall(text) if (one, sd) not in known]


def proven(page: str) -> set[tuple[str, str]]:
    """Return what a page may say with a ±: what a record has, in each usual form.

    The README may quote READMEs of ``configs/`` too, where the seeds of older tables are.
    """
    found: set[tuple[str, str]] = set()
    for path in sorted(RECORDS.glob('*.json')):
        rows = json.loads(path.read_text())['rows']
        for row in rows:
            found |= _forms(row['test'])
        for row, other in permutations(rows, 2):
            found |= _forms(_gains(row, other))
    older = sorted((ROOT / 'configs').rglob('README.md')) if page == 'README.md' else []
    for path in older:
        found |= set(SPREAD.findall(path.read_text()))
    return found


def untold(text: str) -> list[str]:
    """Return each decimal number of a page's text that no table of its section has."""
    found = []
    for section in SECTION.split(text):
        names = {place['name'] for place in PLACE.finditer(section)}
        body = PLACE.sub('', section)
        known: set[str] = set()
        for kind, what in SOURCES.findall(body):
            if kind == 'records':
                names |= set(what.split())
            else:
                known |= set(what.split())
        for name in sorted(names):
            known |= numbers_of(json.loads((RECORDS / f'{name}.json').read_text()))
        plain = CODE.sub('', SOURCES.sub('', body))
        head = section.partition('\n')[0].lstrip('# ')
        found += [f'{head}: {one}' for one in NUMBER.findall(plain) if one not in known]
    return found


def numbers_of(found: dict[str, Any]) -> set[str]:
    """Return what a text may say of a comparison, with up to three places."""
    rows = found['rows']
    values = [found['teacher'], found['teacher_on_validation']]
    for row in rows:
        values += [*row['test'], row['mean'], row['sd'], row['validation'], row['gap_closed']]
        values += [row['factor'], *row.get('tried', {}).values(), *map(row.get, SPENT)]
        values += map(float, row.get('tried', {}))
    for row, other in permutations(rows, 2):
        gains = _gains(row, other)
        values += [*gains, *([mean(gains)] if gains else []), row['mean'] - other['mean']]
        values += [stdev(gains)] if len(gains) > 1 else []
        values += [row[key] / other[key] for key in SPENT if row[key] and other[key]]
        if row['validation'] and other['validation']:
            values.append(row['validation'] - other['validation'])
    told = [abs(value) for value in values if value is not None]
    exact = {f'{value:.{places}f}' for value in told for places in (1, 2, 3)}
    return exact | {_shorter(value, places) for value in told for places in (1, 2)}


def _gains(row: dict[str, Any], other: dict[str, Any]) -> list[float]:
    theirs = dict(zip(other['seeds'], other['test'], strict=True))
    mine = zip(row['seeds'], row['test'], strict=True)
    return [value - theirs[seed] for seed, value in mine if seed in theirs]


def _forms(values: Sequence[float]) -> set[tuple[str, str]]:
    """Return mean and spread with one to three places; of one value there is no spread.

    >>> sorted(_forms([2.19, 2.27])), _forms([2.19])
    ([('2.2', '0.1'), ('2.23', '0.06'), ('2.230', '0.057')], set())
    """
    if len(values) < 2:
        return set()
    one, sd = abs(mean(values)), stdev(values)
    found = {(f'{one:.{places}f}', f'{sd:.{places}f}') for places in (1, 2, 3)}
    for places in (1, 2):  # 2.15 of a table is 2.2 in a sentence, where 2.149 would be 2.1
        found.add((_shorter(one, places), _shorter(sd, places)))
    return found


def _shorter(value: float, places: int) -> str:
    """Return what a table says of a value with one place more, without that place.

    >>> _shorter(2.149, 1), _shorter(2.144, 1)
    ('2.2', '2.1')
    """
    told = Decimal(f'{value:.{places + 1}f}')
    return str(told.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def _read(page: str) -> str:
    return (ROOT / page).read_text()


def pages() -> list[Path]:
    """Return what may hold a table or show its picture."""
    return sorted([*DOCS.rglob('*.md'), *(ROOT / 'configs').rglob('*.md')])


def write_pages(check: bool) -> list[str]:
    """Write the tables into the pages; return those that were stale."""
    stale = []
    for page in pages():
        before = page.read_text()
        after = PLACE.sub(_filled, before)
        if after != before:
            stale.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(after)
    return stale


def _filled(place: re.Match) -> str:
    begin, kind, name, what, end = place.groups()
    body = table_of(name, what) if kind == 'table' else seeds_of(name, what.split())
    return f'{begin}{body}{end}'


def main(arguments: Sequence[str]) -> int:
    """Run; see the docstring of the module."""
    check = '--check' in arguments
    taken = [one.split('=', 1) for one in arguments if '=' in one]
    if check and taken:
        raise SystemExit(
            f'--check writes nothing, so {"=".join(taken[0])} cannot be taken over. Mend: one of '
            'the two'
        )
    for name, folder in taken:
        take_over(name, Path(folder))
        if any(f'images/{name}.png' in page.read_text() for page in pages()):
            picture_of(name)
    stale = write_pages(check)
    for page in stale:
        print(f'{"stale" if check else "written"}: {page}')
    wrong = [f'{page}: {one}' for page in PROVEN for one in unproven(_read(page), proven(page))]
    wrong += [f'{MEASURED}: {one}' for one in untold(_read(MEASURED))]
    for one in wrong:
        print(f'in no record: {one}')
    return int(bool(wrong) or (check and bool(stale)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
