"""Try every architecture of mmseg's zoo, and detectors of mmdet's, as student and as teacher.

``make zoo`` runs all of them and writes the table of ``docs/architectures.md``; with names, those
alone are run anew. Where mmpretrain is, two more can be run: ``make zoo
ZOO_PYTHON=.venv-zoo/bin/python ZOO_ARGS='convnext poolformer'``, after ``make test-zoo``.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))
PAGE = ROOT / 'docs' / 'architectures.md'
ROLES = ('student', 'teacher')
BEGIN, END = '<!-- table architectures -->', '<!-- end of table architectures -->'
HEAD = '| architecture | as student | as teacher | taps that were found |\n|---|---|---|---|\n'
ROW = re.compile(r'\| (\S+) \| (.*?) \| (.*?) \| (.*?) \|')


def run(case: tuple[str, str]) -> dict:
    """Run one case in a process of its own."""
    import warnings

    import torch

    import mmkd  # noqa: F401  it mends the stack first

    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    from mmengine.logging import MMLogger

    MMLogger.get_instance('architectures', log_level='ERROR')
    from helpers.zoo_cases import run_case

    return run_case(*case).record()


def rows_of(text: str) -> dict[str, tuple[str, ...]]:
    """Return architecture -> cells of the table of a page.

    >>> rows_of('| fcn | works | works | `decode_head.conv_seg` |')
    {'fcn': ('works', 'works', '`decode_head.conv_seg`')}
    """
    found = (ROW.fullmatch(line) for line in text.splitlines())
    return {row[1]: row.groups()[1:] for row in found if row and row[1] != 'architecture'}


def row_of(records: Iterable[dict]) -> tuple[str, ...]:
    """Return the cells of one architecture."""
    by_role = {record['role']: record for record in records}
    told = [told_of(by_role[role]) for role in ROLES]
    taps = next((by_role[role]['taps'] for role in ROLES if by_role[role]['taps']), '')
    return (*told, ', '.join(f'`{tap}`' for tap in taps.split(', ') if tap))


def told_of(record: dict) -> str:
    """Return what is said of one case: the verdict, and the reason where there is one."""
    reason = re.sub(r'\s+', ' ', record['reason']).replace('|', r'\|')
    return f'{record["verdict"]}: {reason}' if reason else record['verdict']


def with_row(
    rows: dict[str, tuple[str, ...]], name: str, row: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Return rows with one more; what is not here keeps what was found where it is.

    >>> with_row(dict(x=('works', 'works', '')), 'x', ('not here: y', 'not here: y', ''))
    {'x': ('works', 'works', '')}
    """
    absent = row[0].startswith('not here') and name in rows
    return rows if absent else {**rows, name: row}


def written(text: str, rows: dict[str, tuple[str, ...]], names: Iterable[str]) -> str:
    """Return the page with another table, in the order of the names."""
    lines = [f'| {name} | {" | ".join(rows[name])} |\n' for name in names if name in rows]
    before, rest = text.split(BEGIN)
    return f'{before}{BEGIN}\n{HEAD}{"".join(lines)}{END}{rest.split(END)[1]}'


def main() -> int:
    """Run the cases, write the table; 1 where one is wrong, or refused that should not be."""
    from helpers.zoo import DETECTORS, ZOO

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='architectures (default: all)')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--dry-run', action='store_true', help='print, write nothing')
    args = parser.parse_args()
    known = [*ZOO, *(f'det:{name}' for name in DETECTORS)]
    unknown = set(args.names) - set(known)
    if unknown:
        parser.error(f'unknown {sorted(unknown)}; there are {", ".join(known)}')
    cases = list(product(args.names or known, ROLES))
    records: dict[str, list[dict]] = {}
    with ProcessPoolExecutor(args.workers, mp_context=get_context('spawn')) as pool:
        for (name, role), record in zip(cases, pool.map(run, cases), strict=True):
            records.setdefault(name, []).append(record)
            print(f'{name:16}{role:9}{told_of(record)} ({record["seconds"]} s)', flush=True)
            if role == ROLES[-1] and not args.dry_run:
                page = PAGE.read_text(encoding='utf-8')  # another environment may write it too
                rows = with_row(rows_of(page), name, row_of(records[name]))
                PAGE.write_text(written(page, rows, known), encoding='utf-8')
    every = [record for found in records.values() for record in found]
    for role in ROLES:
        mine = [record['verdict'] for record in every if record['role'] == role]
        print(f'as {role}: {mine.count("works")} of {len(mine)} work', end='')
        print(f', {mine.count("features only")} more by features')
    bad = [one for one in every if one['verdict'] in ('wrong', 'refused') and one['name'] != 'vpd']
    return int(bool(bad))


if __name__ == '__main__':
    sys.exit(main())
