"""``metafile.yml`` of every folder of configs and ``model-index.yml``, derived.

What a config cannot say stands in ``collection.yml`` of the folder: the paper, and which row of the
README measures which recipe. The numbers themselves stand in the README alone, typed by hand or
written by ``mmkd report``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmkd.utils.atomic import write_atomically
from mmkd.utils.checks import check_keys, nearest
from mmkd.utils.kinds import bare_name

COLLECTION = 'collection.yml'
METAFILE = 'metafile.yml'
INDEX = 'model-index.yml'
HEAD = '# Written by mmkd metafiles from configs, collection.yml and README.md.\n'
DATA = {  # data_root, or the type of a data set that needs no files -> its name
    'data/bccd': 'BCCD',
    'data/camvid': 'CamVid',
    'data/cifar10': 'CIFAR-10',
    'data/cifar100': 'CIFAR-100',
    'data/cityscapes/': 'Cityscapes',
    'data/nyu': 'NYU Depth v2',
    'data/nyuv2_depth': 'NYU Depth v2',
    'data/text/rte': 'RTE',
    'data/text/sst2': 'SST-2',
    'mmkd.DigitScenes': 'DigitScenes',
}
TABLE_KEYS = ('Table', 'Task', 'Dataset', 'Columns', 'Rows', 'Runs')
MEASURED = re.compile(r'(-?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?')


@dataclass
class Result:
    """What was measured of one recipe on one data set, from one or several tables."""

    task: str
    dataset: str
    runs: int
    hardware: str
    metrics: dict[str, float] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    source: str = ''

    def entry(self) -> dict[str, Any]:
        """Return the entry of ``Results``."""
        entry: dict[str, Any] = {
            'Task': self.task,
            'Dataset': self.dataset,
            'Metrics': self.metrics,
        }
        if self.deviations:
            entry['Standard Deviation'] = self.deviations
        return {**entry, 'Runs': self.runs, 'Hardware': self.hardware}


def write_metafiles(root: Path) -> list[Path]:
    """Write what is stale.

    Args:
        root: The folder of ``configs`` and ``model-index.yml``.

    Returns:
        The files that were written.

    Raises:
        ValueError: A ``collection.yml`` or a table that it names is not as it should be.
    """
    stale = stale_metafiles(root)
    for path, text in stale.items():
        write_atomically(text.encode(), path)
    return list(stale)


def stale_metafiles(root: Path) -> dict[Path, str]:
    """Return each file that differs from what configs and READMEs say, and its text."""
    return {
        path: text
        for path, text in metafiles(root).items()
        if not path.is_file() or path.read_text(encoding='utf-8') != text
    }


def metafiles(root: Path) -> dict[Path, str]:
    """Return ``model-index.yml``, and ``metafile.yml`` of each folder with a ``collection.yml``.

    Args:
        root: The folder of ``configs`` and ``model-index.yml``.

    Raises:
        ValueError: A ``collection.yml`` or a table that it names is not as it should be.
    """
    folders = sorted(path.parent for path in (root / 'configs').glob(f'*/{COLLECTION}'))
    collections = {folder: _read_collection(folder) for folder in folders}
    recipes = [path.stem for folder in folders for path in folder.glob('*.py')]
    results = _merge(
        (measured for folder in folders for measured in _results(folder, collections[folder])),
        recipes,
    )
    texts = {
        folder / METAFILE: _metafile(root, folder, collections[folder], results)
        for folder in folders
    }
    index = dict(Import=[(folder / METAFILE).relative_to(root).as_posix() for folder in folders])
    return {root / INDEX: _dump(index), **texts}


def _read_collection(folder: Path) -> dict[str, Any]:
    path = folder / COLLECTION
    collection = yaml.safe_load(path.read_text(encoding='utf-8'))
    check_keys(collection, ('Name', 'Paper', 'Hardware', 'Tables'), str(path))
    for table in collection.get('Tables', []):
        check_keys(table, TABLE_KEYS, f'{path}: Tables')
        missing = [key for key in TABLE_KEYS if key not in table]
        if missing:
            raise ValueError(
                f'{path}: table {table.get("Table")!r} lacks {", ".join(missing)}. Mend: write them'
            )
    return collection


def _metafile(
    root: Path, folder: Path, collection: dict[str, Any], results: dict[str, list[Result]]
) -> str:
    models = []
    for path in sorted(folder.glob('*.py')):
        config = Config.fromfile(path)
        model = {
            'Name': path.stem,
            'In Collection': collection['Name'],
            'Config': path.relative_to(root).as_posix(),
            'Metadata': _metadata(config),
        }
        if path.stem in results:
            model['Results'] = [result.entry() for result in results[path.stem]]
        models.append(model)
    data = sorted({model['Metadata']['Training Data'] for model in models}, key=str.lower)
    about = {
        'Name': collection['Name'],
        'License': 'Apache License 2.0',
        'Metadata': {'Training Data': data},
        'Paper': collection['Paper'],
        'README': (folder / 'README.md').relative_to(root).as_posix(),
        'Frameworks': ['PyTorch'],
    }
    return HEAD + _dump({'Collections': [about], 'Models': models})


def _metadata(config: Config) -> dict[str, Any]:
    loader = config.train_dataloader
    dataset = loader.dataset
    if bare_name(dataset.type) == 'WithUnlabelled':
        dataset = dataset.dataset
    root = dataset.get('data_root')
    name = DATA.get(root) or DATA.get(dataset.type) or Path(root or dataset.type).name
    if (
        config.model.type == 'mmkd.Ensemble'
    ):  # its members were trained, each by a recipe of its own
        return {'Training Data': name}
    return {
        'Training Data': name,
        'Iterations': config.train_cfg.max_iters,
        'Batch Size': loader.batch_size,
    }


def _results(folder: Path, collection: dict[str, Any]) -> Iterator[tuple[str, Result]]:
    """Yield recipe and result for every row that ``collection.yml`` maps."""
    readme = folder / 'README.md'
    text = readme.read_text(encoding='utf-8')
    for table in collection.get('Tables', []):
        source = f'{readme}, table {table["Table"]!r}'
        rows = read_table(text, table['Table'], source)
        for label, stem in table['Rows'].items():
            if label not in rows:
                raise ValueError(
                    f'{source} has no row {label!r}{nearest(label, rows, otherwise=".")} Mend: '
                    f'the label as it stands there, in {folder / COLLECTION}'
                )
            yield (
                stem,
                _result(rows[label], table, collection['Hardware'], f'{source}, row {label!r}'),
            )


def _result(row: dict[str, str], table: dict[str, Any], hardware: str, source: str) -> Result:
    runs = (
        table['Runs']
        if isinstance(table['Runs'], int)
        else len(_cell(row, table['Runs'], source).split(','))
    )
    result = Result(table['Task'], table['Dataset'], runs, hardware, source=source)
    for column, metric in table['Columns'].items():
        cell = _cell(row, column, source)
        if cell in ('–', ''):
            continue
        found = MEASURED.fullmatch(cell)
        if found is None:
            raise ValueError(
                f'{source}: {column!r} must be a number, or mean ± standard deviation, got '
                f'{cell!r}. Mend: another column in collection.yml'
            )
        result.metrics[metric] = float(found[1])
        if found[2] is not None:
            result.deviations[metric] = float(found[2])
    return result


def _cell(row: dict[str, str], column: str, source: str) -> str:
    if column not in row:
        raise ValueError(
            f'{source}: there is no column {column!r}{nearest(column, row, otherwise=".")} '
            'Mend: the header as it stands there, in collection.yml'
        )
    return row[column]


def read_table(text: str, name: str, source: str) -> dict[str, dict[str, str]]:
    r"""Return the rows of a table by their label: the first below a marker with its name.

    The marker is ``<!-- table NAME -->``, or ``<!-- report NAME -->`` of ``mmkd report``.

    Raises:
        ValueError: The marker is not there once, or no table follows.

    >>> table = '| row | mIoU |\n|---|---|\n| alone | **47.12 ± 2.46** |\n'
    >>> read_table('<!-- table x -->\n' + table, 'x', 'README.md')
    {'alone': {'row': 'alone', 'mIoU': '47.12 ± 2.46'}}
    """
    places = re.split(rf'<!-- (?:table|report) {re.escape(name)} -->', text)
    if len(places) != 2:
        raise ValueError(
            f'{source} is there {len(places) - 1} times. Mend: the line <!-- table {name} --> '
            'above it, once'
        )
    found = re.search(r'(?:^\|.*\|[ ]*\n)+', places[1], re.MULTILINE)
    if found is None:
        raise ValueError(f'{source}: no table follows the line <!-- table {name} -->')
    header, _, *rows = [_cells(line) for line in found[0].splitlines()]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def _cells(line: str) -> list[str]:
    return [
        cell.strip().strip('*').replace('−', '-') for cell in line.strip().strip('|').split('|')
    ]


def _merge(
    measured: Iterable[tuple[str, Result]], recipes: Sequence[str]
) -> dict[str, list[Result]]:
    """Return each recipe's results, one a data set: several tables may print the same numbers."""
    merged: dict[str, dict[tuple[str, str], Result]] = {}
    for stem, result in measured:
        if stem not in recipes:
            raise ValueError(
                f'{result.source}: there is no recipe {stem!r}'
                f'{nearest(stem, recipes, otherwise=".")} Mend: '
                "a recipe's name, in collection.yml"
            )
        known = merged.setdefault(stem, {}).setdefault((result.task, result.dataset), result)
        _add(known.metrics, result.metrics, known, result, stem)
        _add(known.deviations, result.deviations, known, result, stem)
    return {stem: list(results.values()) for stem, results in merged.items()}


def _add(
    mine: dict[str, float], more: dict[str, float], known: Result, result: Result, stem: str
) -> None:
    for metric, value in more.items():
        if mine.setdefault(metric, value) != value:
            raise ValueError(
                f'{stem}: {metric} is {mine[metric]} by {known.source}, but {value} by '
                f'{result.source}. Mend: one of the two'
            )


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
