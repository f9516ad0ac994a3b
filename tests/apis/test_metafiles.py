"""metafile.yml and model-index.yml say what configs and READMEs say."""

import shutil
from pathlib import Path

import pytest
import yaml

from mmkd.apis.metafiles import metafiles, stale_metafiles, write_metafiles

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """# A recipe.
model = dict(type='mmkd.ImageClassifier')
train_cfg = dict(max_iters=7)
train_dataloader = dict(batch_size=3, dataset=dict(type='mmkd.CIFAR10', data_root='data/cifar10'))
"""
COLLECTION = """Name: A paper
Paper: {Title: Its title, URL: 'https://example.org'}
Hardware: a computer
Tables:
- Table: one
  Task: Image Classification
  Dataset: CIFAR-10
  Runs: by seed
  Columns: {'top-1': Top 1 Accuracy, ECE: ECE}
  Rows: {alone: baseline_a, '+ it': it_a}
"""
README = """<!-- table one -->
| row | by seed | top-1 | ECE |
|---|---|---|---|
| alone | 1, 2 | 1.50 ± 0.71 | 4 |
| + it | 3 | **3.00** | – |
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / 'configs/paper'
    folder.mkdir(parents=True)
    for name, text in (
        ('baseline_a.py', CONFIG),
        ('it_a.py', CONFIG),
        ('collection.yml', COLLECTION),
        ('README.md', README),
    ):
        (folder / name).write_text(text)
    return tmp_path


@pytest.mark.slow  # it reads every recipe
def test_those_of_the_repository_are_not_stale() -> None:
    assert not list(stale_metafiles(ROOT)), 'Mend: mmkd metafiles'


def test_every_folder_of_recipes_has_a_collection() -> None:
    folders = {path.parent for path in (ROOT / 'configs').glob('[!_]*/*.py')} - {
        ROOT / 'configs/demo'
    }
    assert {path.parent for path in (ROOT / 'configs').glob('*/collection.yml')} == folders


def test_what_is_written(root: Path) -> None:
    assert write_metafiles(root) == [root / 'model-index.yml', root / 'configs/paper/metafile.yml']
    assert yaml.safe_load((root / 'model-index.yml').read_text()) == {
        'Import': ['configs/paper/metafile.yml']
    }
    found = yaml.safe_load((root / 'configs/paper/metafile.yml').read_text())
    assert found['Collections'] == [
        {
            'Name': 'A paper',
            'License': 'Apache License 2.0',
            'Metadata': {'Training Data': ['CIFAR-10']},
            'Paper': {'Title': 'Its title', 'URL': 'https://example.org'},
            'README': 'configs/paper/README.md',
            'Frameworks': ['PyTorch'],
        }
    ]
    assert found['Models'][0] == {
        'Name': 'baseline_a',
        'In Collection': 'A paper',
        'Config': 'configs/paper/baseline_a.py',
        'Metadata': {'Training Data': 'CIFAR-10', 'Iterations': 7, 'Batch Size': 3},
        'Results': [
            {
                'Task': 'Image Classification',
                'Dataset': 'CIFAR-10',
                'Metrics': {'Top 1 Accuracy': 1.5, 'ECE': 4.0},
                'Standard Deviation': {'Top 1 Accuracy': 0.71},
                'Runs': 2,
                'Hardware': 'a computer',
            }
        ],
    }
    assert found['Models'][1]['Results'] == [
        {
            'Task': 'Image Classification',
            'Dataset': 'CIFAR-10',
            'Metrics': {'Top 1 Accuracy': 3.0},
            'Runs': 1,
            'Hardware': 'a computer',
        }
    ]
    assert not stale_metafiles(root)


def test_a_new_number_makes_it_stale(root: Path) -> None:
    write_metafiles(root)
    readme = root / 'configs/paper/README.md'
    readme.write_text(README.replace('3.00', '3.25'))
    assert list(stale_metafiles(root)) == [root / 'configs/paper/metafile.yml']


def test_tables_of_two_papers_agree(root: Path) -> None:
    """A pair is measured once, and several papers print it."""
    shutil.copytree(
        root / 'configs/paper', root / 'configs/other', ignore=shutil.ignore_patterns('*.py')
    )
    (model, _) = yaml.safe_load(metafiles(root)[root / 'configs/paper/metafile.yml'])['Models']
    assert len(model['Results']) == 1
    (root / 'configs/other/README.md').write_text(README.replace('1.50', '1.60'))
    with pytest.raises(
        ValueError,
        match=r'baseline_a: Top 1 Accuracy is 1.6 by .*other.*, but 1.5 by .*paper.*Mend: ',
    ):
        metafiles(root)


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'message'),
    [
        (
            'collection.yml',
            'alone',
            'alon',
            r"README.md, table 'one' has no row 'alon'; did you mean 'alone'",
        ),
        (
            'collection.yml',
            "'top-1'",
            'top1',
            r"row 'alone': there is no column 'top1'; did you mean 'top-1'",
        ),
        ('collection.yml', 'it_a', 'it_b', r"there is no recipe 'it_b'; did you mean 'it_a'"),
        ('collection.yml', '  Runs: by seed\n', '', r"collection.yml: table 'one' lacks Runs"),
        (
            'README.md',
            '<!-- table one -->',
            '',
            r"table 'one' is there 0 times. Mend: the line <!-- table one -->",
        ),
        ('README.md', '|', '/', r"table 'one': no table follows"),
        (
            'README.md',
            '1.50 ±',
            '1.50 or',
            r"'top-1' must be a number, or mean ± standard deviation, got '1.50 or 0.71'",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    root: Path, file: str, old: str, new: str, message: str
) -> None:
    path = root / 'configs/paper' / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        metafiles(root)
