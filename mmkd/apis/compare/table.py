"""The table of a comparison, written from its records alone."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd.apis.compare.plot import ROWS, draw, draw_rows
from mmkd.apis.compare.recipes import digests_of_sets
from mmkd.apis.compare.records import RESULT, SIGNED, config_path, read_note, write_note
from mmkd.apis.compare.rows import (
    ENOUGH,
    Difference,
    all_on_gpu,
    apart,
    closed,
    mean_of,
    mean_shares,
    paired,
)
from mmkd.apis.compare.settings import LABELS_ALONE, is_mixed
from mmkd.apis.compare.specs import ALONE, PLAIN, Spec, read_spec
from mmkd.apis.compare.tuning import FILE as TUNED
from mmkd.apis.compare.tuning import is_test_set, main_metric_of, validation_of
from mmkd.apis.report import Table, as_markdown, digits, less_is_better, rounded, text
from mmkd.apis.results import is_finite
from mmkd.utils.atomic import write_atomically
from mmkd.utils.averages import spread
from mmkd.utils.checks import printable
from mmkd.utils.config_file import readable_text
from mmkd.utils.signed import is_unedited, sign

NAME = 'compare'
BEST = 'best.py'
SEED = re.compile(r'seed_(\d+)')
Records = dict[int, dict[str, Any]]  # of a row, by seed


@dataclass(frozen=True)
class Results:
    """What is on record.

    Args:
        specs: The rows, in order.
        records: Text of a row -> its records by seed.
        teachers: Name -> record of the test of each teacher.
        missing: Runs that were asked for and have no record.
        on_validation: As ``teachers``, on the validation set.
        tuned: Text of a row -> what was noted when its weights were tuned.
    """

    specs: tuple[Spec, ...]
    records: dict[str, Records]
    teachers: dict[str, dict[str, Any]]
    missing: list[str]
    on_validation: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def all_records(self) -> list[dict[str, Any]]:
        """The records of all rows."""
        return [record for own in self.records.values() for record in own.values()]

    def folders(self, work_dir: Path, spec: Spec) -> list[Path]:
        """Return the folders of a row's runs."""
        return [work_dir / spec.folder / f'seed_{seed}' for seed in self.records[spec.text]]


def specs_there(work_dir: Path) -> tuple[Spec, ...]:
    """Return the rows that have a record in a folder: the student alone first, then kd.

    Raises:
        FileNotFoundError: There is none.
    """
    notes = (read_note(path) for path in sorted(work_dir.glob(f'*/seed_*/{RESULT}')))
    recipes = {note['method']: note.get('recipe') for note in notes if note is not None}
    if not recipes:
        raise FileNotFoundError(
            f'{work_dir} holds no record of a comparison. Mend: --work-dir of one, or --methods'
        )
    texts = sorted(recipes, key=lambda one: (one != ALONE, one != PLAIN))
    return tuple(_spec_of(text, recipes[text]) for text in texts)


def _spec_of(name: str, recipe: str | None) -> Spec:
    return read_spec(name) if recipe is None else Spec(name, recipe=recipe)


def read_results(
    work_dir: Path, specs: Sequence[Spec], seeds: Sequence[int] | None = None
) -> Results:
    """Read the records of a folder.

    Args:
        work_dir: Of the comparison.
        specs: The rows.
        seeds: Of every row; None: those that lie there.

    Raises:
        ValueError: A record that cannot be read.
    """
    records: dict[str, Records] = {}
    missing = []
    for spec in specs:
        own = records[spec.text] = _read_row(work_dir / spec.folder, seeds)
        missing += [f'{spec.text}, seed {seed}' for seed in seeds or () if seed not in own]
        if seeds is None and not own:  # of what lies there, nothing
            missing.append(spec.text)
    teachers, on_validation = (
        _read_teachers(work_dir, pattern) for pattern in ('teacher', 'teacher_on_validation')
    )
    notes = {spec.text: read_note(work_dir / spec.folder / TUNED) for spec in specs}
    tuned = {text: note for text, note in notes.items() if note and _was_tuned(records[text])}
    return Results(tuple(specs), records, teachers, missing, on_validation, tuned)


def _read_row(folder: Path, seeds: Sequence[int] | None) -> Records:
    found = [
        (int(match[1]), path / RESULT)
        for path in folder.glob('seed_*')
        if (match := SEED.fullmatch(path.name))
    ]
    wanted = [(seed, path) for seed, path in sorted(found) if seeds is None or seed in seeds]
    notes = {seed: read_note(path) for seed, path in wanted}
    return {seed: note for seed, note in notes.items() if note is not None}


def _read_teachers(work_dir: Path, prefix: str) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(work_dir.glob(f'{prefix}*/{RESULT}')):
        note = read_note(path)
        if note is not None and path.parent.name in (prefix, f'{prefix}_{note["name"]}'):
            found[note['name']] = note
    return found


# ---------------------------------------------------------------------- in numbers


def summarise(results: Results, metric: str, pair: Config) -> list[dict[str, Any]]:
    """Return what each row found, as ``compare.json`` holds it.

    Args:
        results: What is on record.
        metric: That is compared.
        pair: Config of the pair.
    """
    validated_apart = _apart(results, pair, 'val')
    tests = {row: _tests(records, metric) for row, records in results.records.items()}
    alone = tests.get(ALONE, {})
    teacher = teacher_of(results.teachers, metric)
    rows = []
    for spec in results.specs:
        own, records = tests[spec.text], results.records[spec.text]
        if not own:
            continue
        factors = {record['factor'] for record in records.values()}
        gains = [paired(own, tests.get(base, {}), metric) for base in (ALONE, PLAIN)]
        rows.append(
            dict(
                method=spec.text,
                seeds=list(own),
                test=list(own.values()),
                mean=statistics.fmean(own.values()),
                sd=statistics.stdev(own.values()) if len(own) > 1 else None,
                validation=_mean_validation(records, metric),
                to_alone=None if spec.text == ALONE else _as_dict(gains[0]),
                to_kd=None if spec.text in (ALONE, PLAIN) else _as_dict(gains[1]),
                gap_closed=None if spec.text == ALONE else closed(own, alone, teacher, metric),
                factor=min(factors) if spec.methods or _was_tuned(records) else None,
                factors_differ=len(factors) > 1,
                tried=_tried(results.tuned.get(spec.text), metric),
                recipe=spec.recipe,
                validated_apart=spec.text in validated_apart,
                iterations=sorted({record['iterations'] for record in records.values()}),
                gradient_shares=mean_shares(records),
                on_gpu=all(record['peak_gpu_mib'] is not None for record in records.values()),
                **{key: mean_of(records, key) for key in SPENT},
            )
        )
    return rows


def _tried(note: Mapping[str, Any] | None, metric: str) -> dict[str, float | None]:
    """Return the validation of each factor of a row's weights, in order; none of other metrics."""
    if note is None or note['metric'] != metric:
        return {}
    return dict(sorted(note['values'].items(), key=lambda one: float(one[0])))


def _apart(results: Results, pair: Config, split: str) -> list[str]:
    """Return what was tested, or validated, on something else than the pair."""
    rows = {name: list(records.values()) for name, records in results.records.items()}
    if split == 'test':
        rows['teacher'] = list(results.teachers.values())
    of_pair = [spec.text for spec in results.specs if spec.recipe is None]
    return apart(rows, split, of_pair, digests_of_sets(pair)[split])


SPENT = (
    'step_ms',
    'step_processor_ms',
    'seconds',
    'processor_seconds',
    'peak_memory_mib',
    'peak_gpu_mib',
)


def _tests(records: Records, metric: str) -> dict[int, float]:
    """Return the test of each seed; without those that are no finite number."""
    found = {seed: record['test'].get(metric) for seed, record in records.items()}
    return {seed: value for seed, value in found.items() if is_finite(value)}


def _untold(results: Results, metric: str) -> list[str]:
    """Return the runs whose test is no finite number, which make up no mean."""
    rows = results.records.items()
    return [f'{row}, seed {seed}' for row, own in rows for seed in own.keys() - _tests(own, metric)]


def _mean_validation(records: Records, metric: str) -> float | None:
    values = [validation_of(record, metric) for record in records.values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _as_dict(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else difference.as_dict()


def teacher_of(teachers: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    """Return the teacher's metric; of several teachers their mean."""
    values = [note['test'].get(metric) for note in teachers.values()]
    known = [value for value in values if is_finite(value)]
    return statistics.fmean(known) if known else None


def best_of(rows: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """Return the row that is best on the validation set, of those with the most seeds.

    >>> best_of([dict(method='kd', validation=41.0, seeds=[0]),
    ...          dict(method='cwd', validation=40.0, seeds=[0])], 'mIoU')
    'kd'
    """
    sign = -1 if less_is_better(metric) else 1
    known = _most_seeds(rows)
    return max(known, key=lambda row: sign * row['validation'])['method'] if known else None


def _most_seeds(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows that may be the best: validated as the pair is, over as many seeds as any."""
    alike = [one for one in rows if not one.get('validated_apart')]
    known = [row for row in alike if row['validation'] is not None]
    most = max((len(row['seeds']) for row in known), default=0)
    return [row for row in known if len(row['seeds']) == most]


# ---------------------------------------------------------------------- in words


def write_results(results: Results, work_dir: Path, asked: str | None, pair: Config) -> Table:
    """Write ``compare.md``, ``compare.json``, the plot and ``best.py``; return the table.

    Args:
        results: What is on record.
        work_dir: Where they go.
        asked: The metric; None: a usual one.
        pair: Config of the pair.

    Raises:
        KeyError: There is no such metric.
    """
    metric = main_metric_of(results.all_records[0]['test'], asked)
    rows = summarise(results, metric, pair)
    if not rows:
        raise ValueError(
            f'{metric} of every test in {work_dir} is no finite number, so there is no table to '
            'write. Mend: look into the logs of the runs, or --metric'
        )
    teacher = teacher_of(results.teachers, metric)
    best = best_of(rows, metric)
    where = _copy_best(results, work_dir, best)
    notes = _notes(results, rows, metric, teacher, pair) + _best_notes(best, where, rows, pair)
    titles, lines = cells_of(rows, metric, teacher)
    table = Table(titles, lines, notes, metric)
    write_atomically(as_markdown(table).encode(), work_dir / f'{NAME}.md')
    write_note(
        work_dir / f'{NAME}.json',
        dict(
            metric=metric,
            teacher=teacher,
            teacher_on_validation=teacher_of(results.on_validation, metric),
            best=best,
            rows=rows,
            missing=results.missing,
            notes=notes,
            records=results.all_records,
        ),
    )
    folders = {spec.text: results.folders(work_dir, spec) for spec in results.specs}
    draw(rows, folders, metric, teacher_of(results.on_validation, metric), teacher, work_dir)
    draw_rows(rows, metric, teacher, work_dir / ROWS)
    return table


def cells_of(
    rows: Sequence[Mapping[str, Any]], metric: str, teacher: float | None
) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the table and its lines: one for each row, and the teacher's."""
    places = digits([value for row in rows for value in row['test']])
    arrow = ' ↓' * less_is_better(metric)
    clock = '' if all_on_gpu(rows) else ', processor'
    titles = ['method', f'{text(metric)}{arrow}, test', 'beside alone', 'beside kd', 'gap closed']
    titles += ['weights', 'iterations', f'ms a step{clock}', f's a run{clock}', 'memory']
    lines = [_cells(row, places) for row in rows]
    if any(row['gradient_shares'] for row in rows):
        titles.append('gradient share')
        for cells, row in zip(lines, rows, strict=True):
            cells.append(_told_shares(row['gradient_shares']))
    if teacher is not None:
        known = ['teacher', f'{teacher:.{places}f}', *['–'] * 2, '100 %']
        lines.append(known + ['–'] * (len(titles) - len(known)))
    return titles, lines


def _cells(row: Mapping[str, Any], places: int) -> list[str]:
    on_gpu = row['on_gpu']
    share = row['gap_closed']
    memory = row['peak_gpu_mib'] if on_gpu else row['peak_memory_mib']
    return [
        text(row['method']),
        spread(row['test'], places),
        _told(row['to_alone'], places),
        _told(row['to_kd'], places),
        '–' if share is None else f'{rounded(share, 0):.0f} %',
        '–' if row['factor'] is None else f'× {row["factor"]:g}',
        ', '.join(f'{number:,}' for number in row['iterations']),
        _number(row['step_ms' if on_gpu else 'step_processor_ms'], 1),
        _number(row['seconds' if on_gpu else 'processor_seconds'], 0),
        '–' if memory is None else f'{memory:,.0f} MiB',
    ]


def _told_shares(shares: Mapping[str, float]) -> str:
    return ', '.join(f'{text(name)} {share:.2g}' for name, share in shares.items()) or '–'


def _number(value: float | None, places: int) -> str:
    return '–' if value is None else f'{value:,.{places}f}'


def _told(difference: Mapping[str, Any] | None, places: int) -> str:
    """Return a difference in a cell: mean ± its spread, and whether it exceeds that.

    >>> _told(dict(values=[1.0, 2.0, 3.0], mean=2.0, spread=1.0, exceeds=True), 2)
    '+2.00 ± 1.00, exceeds'
    >>> _told(dict(values=[1.0], mean=1.0, spread=None, exceeds=None), 1)
    '+1.0 (1 seed)'
    """
    if difference is None:
        return '–'
    said = f'{rounded(difference["mean"], places):+.{places}f}'
    number = len(difference['values'])
    if difference['spread'] is not None:
        said += f' ± {difference["spread"]:.{places}f}'
    if difference['exceeds'] is None:
        return f'{said} ({number} seed{"s" * (number > 1)})'
    return f'{said}, {"exceeds" if difference["exceeds"] else "within"}'


def _notes(
    results: Results,
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    teacher: float | None,
    pair: Config,
) -> list[str]:
    """Return in sentences what the numbers are, and under which conditions they were found."""
    records = results.all_records
    seeds = [len(row['seeds']) for row in rows]
    ends = sorted({min(seeds), max(seeds)})
    notes = [
        f'{" to ".join(map(str, ends))} seed{"s" * (ends[-1] > 1)} a row, mean ± sample standard '
        'deviation. Beside alone, beside kd: mean gain over the seeds of both rows ± standard '
        f'deviation of the gains; it exceeds where it is more than 2·sd/√n, of {ENOUGH} seeds or '
        'more (of 3 seeds chance does so once in 5 times, of 5 once in 9).'
    ]
    if less_is_better(metric):
        notes.append('↓: less is better; a gain is for the better.')
    notes += [*_gap_notes(results, rows, metric, teacher), *_length_notes(rows)]
    if is_mixed(pair) and results.records.get(ALONE):
        notes.append(f'{ALONE} is {LABELS_ALONE}.')
    tuned = [row for row in rows if _was_tuned(results.records[row['method']])]
    factors = [f'{row["method"]} × {row["factor"]:g}' for row in tuned]
    if factors:
        notes.append(
            f'Weights tuned on the validation set, at one seed, never on the test set: '
            f'{", ".join(factors)}; the others have those of their presets.'
        )
    notes += [*_tried_notes(rows), *_pair_notes(results)]
    differ = [text(row['method']) for row in rows if row['factors_differ']]
    if differ:
        notes.append(f'Seeds of one row with different weights: {", ".join(differ)}.')
    if any(row['gradient_shares'] for row in rows):
        notes.append(
            'Gradient share: norm of the gradient of an objective, at what it reads of the '
            "student, over that of the student's own task; mean over the run."
        )
    notes += [*_precision_notes(results), _tested_note(results)]
    for key, title in (('device', 'device'), ('torch', 'torch'), ('mmkd', 'mmkd')):
        said = sorted({text(record[key]) for record in records})
        notes.append(f'{title}: {"; ".join(said)}.')
    jobs = sorted({record['jobs'] for record in records})
    if jobs != [1]:
        notes.append(f'Runs at a time: {", ".join(map(str, jobs))}, which share what they run on.')
    if any(record['resumed'] for record in records):
        notes.append('Some runs were interrupted and went on: their ms a step is of the last part.')
    if is_test_set(pair):
        notes.append(
            'The validation set is the test set: what was chosen on the one was chosen on the '
            'other.'
        )
    notes += _apart_notes(results, pair)
    untold = _untold(results, metric)
    if untold:
        notes.append(f'Left out, since {metric} is no finite number: {"; ".join(sorted(untold))}.')
    if results.missing:
        notes.append(f'Missing: {"; ".join(map(text, results.missing))}.')
    return notes


def _gap_notes(
    results: Results, rows: Sequence[Mapping[str, Any]], metric: str, teacher: float | None
) -> list[str]:
    """Return why there is no gap to close, and over which seeds it is where they differ."""
    alone = _tests(results.records.get(ALONE, {}), metric)
    if not alone or teacher is None:
        return []
    if closed(alone, alone, teacher, metric) is None:
        return ['The teacher is not better than the student alone: there is no gap to close.']
    if any(set(row['seeds']) != set(alone) for row in rows):
        return [f'Gap closed: over the seeds that a row shares with {ALONE}.']
    return []


def _apart_notes(results: Results, pair: Config) -> list[str]:
    """Return which rows were tested or validated on something else than the pair."""
    said = dict(
        test='Tested otherwise than the pair, so that their numbers say nothing of those of the '
        'other rows',
        val='Validated otherwise than the pair, so that their validations are neither drawn nor '
        'compared',
    )
    named = {split: _apart(results, pair, split) for split in said}
    return [f'{words}: {", ".join(map(text, named[key]))}.' for key, words in said.items()
            if named[key]]  # fmt: skip


def _length_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which rows are recipes of their own, and whether lengths differ.

    >>> row = dict(method='kd', recipe=None, iterations=[1500])
    >>> other = dict(method='long', recipe='a/long.py', iterations=[6000])
    >>> _length_notes([row]), _length_notes([row, other])[1]
    ([], 'Iterations differ, from 1,500 to 6,000: a gain holds what the length gives.')
    """
    notes = []
    recipes = [
        f'{text(row["method"])} ({printable(row["recipe"])})' for row in rows if row['recipe']
    ]
    if recipes:
        notes.append(
            'Recipes of their own, by the model, data, batch and schedule that their files say: '
            f'{", ".join(recipes)}.'
        )
    lengths = sorted({number for row in rows for number in row['iterations']})
    if len(lengths) > 1:
        notes.append(
            f'Iterations differ, from {lengths[0]:,} to {lengths[-1]:,}: a gain holds what the '
            'length gives.'
        )
    elif recipes:
        notes.append(f'All rows have {lengths[0]:,} iterations.')
    return notes


def _precision_notes(results: Results) -> list[str]:
    """Return which rows were trained in mixed precision because that was asked for."""
    mixed = [text(record['method']) for record in results.all_records if record.get('amp')]
    names = ', '.join(dict.fromkeys(mixed))
    return [f'Trained in mixed precision (--amp): {names}.'] if mixed else []


def _tested_note(results: Results) -> str:
    which: dict[str, list[str]] = {}
    for name, records in results.records.items():
        for one in sorted({record['tested'] for record in records.values()}):
            which.setdefault(one, []).append(text(name))
    if len(which) == 1:
        return f'Tested: the {next(iter(which))} weights of each run.'
    said = (f'the {one} weights of {", ".join(names)}' for one, names in sorted(which.items()))
    return f'Tested: {"; ".join(said)}.'


def _tried_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what each factor gave, and where the best is the last one that was tried."""
    told, smallest, largest = [], [], []
    for row in rows:
        tried = {float(one): value for one, value in row['tried'].items()}
        known = [value for value in tried.values() if value is not None]
        if len(tried) < 2 or not known:
            continue
        places = digits(known)
        values = ', '.join(
            f'{"none" if value is None else f"{value:.{places}f}"} × {one:g}'
            for one, value in tried.items()
        )
        name = text(row['method'])
        told.append(f'{name} {values}')
        if row['factor'] == min(tried):
            smallest.append(name)
        if row['factor'] == max(tried):
            largest.append(name)
    notes = [f'Validation by weights, at that seed: {"; ".join(told)}.'] if told else []
    for side, where in (('smallest', smallest), ('largest', largest)):
        if where:
            notes.append(f'Best at the {side} weights that were tried: {", ".join(where)}.')
    return notes


def _pair_notes(results: Results) -> list[str]:
    """Return which runs were trained when the pair said something else; old records do not say."""
    known: dict[str, list[str]] = {}
    for spec in results.specs:
        for seed, record in results.records[spec.text].items():
            if record.get('pair') is not None:
                known.setdefault(record['pair'], []).append(f'{text(spec.text)}, seed {seed}')
    if len(known) < 2:
        return []
    most = max(known.values(), key=len)
    others = '; '.join(run for runs in known.values() if runs is not most for run in runs)
    return [
        'Trained when data, schedule, optimizer, student or teacher of the pair were others than '
        f'for the other runs, so that a difference is not the method alone: {others}.'
    ]


def _was_tuned(records: Records) -> bool:
    return any(record.get('tuned') for record in records.values())


def _best_notes(
    best: str | None, where: str, rows: Sequence[Mapping[str, Any]], pair: Config
) -> list[str]:
    if best is None:
        return ['No row was validated as the pair is, so none is called the best.']
    on = 'test set, for want of another one' if is_test_set(pair) else 'validation set'
    chosen = _most_seeds(rows)
    known = [row for row in rows if row['validation'] is not None]
    fewer = [text(row['method']) for row in known if len(row['seeds']) < len(chosen[0]['seeds'])]
    said = f' Not looked at, since they have fewer seeds: {", ".join(fewer)}.' if fewer else ''
    return [f'Best on the {on}: {text(best)}, {where}.{said}']


def _copy_best(results: Results, work_dir: Path, best: str | None) -> str:
    """Copy the config of the best row to ``best.py``, without its work dir; return where it is.

    What stands there and was edited is left.
    """
    if best is None:
        return ''
    spec = next(spec for spec in results.specs if spec.text == best)
    seed = next(iter(results.records[best]))
    source = config_path(work_dir / spec.folder / f'seed_{seed}')
    if not source.is_file():  # records may be gathered without it
        return f'whose config is not there to become {BEST}'
    cfg = Config.fromfile(source)
    cfg.pop('work_dir', None)
    about = f'# {best}: the best of a comparison on the validation set; a copy of {source.name}\n'
    path = work_dir / BEST
    if path.exists() and not is_unedited(path.read_text(encoding='utf-8'), SIGNED):
        yours = f'{path.as_posix()} is not as it was written, and is left (remove it to have it)'
        return f'whose config is {source.as_posix()}: {yours}'
    write_atomically(sign(f'{about}{readable_text(cfg).rstrip()}\n', SIGNED).encode(), path)
    return path.as_posix()
