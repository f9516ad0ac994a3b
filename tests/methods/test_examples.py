"""Each example is short, and shows the gain that it asserts."""

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / 'examples').glob('*.py'))
OWN = ('noisy_collaboration', 'afd', 'internal_representations')  # which have a test of their own
QUICK = ('structured_kd', 'ensemble_distribution', 'quest')  # a second or two each
GAINS = [path for path in EXAMPLES if path.stem not in OWN]


def run(path: Path) -> Any:
    """Return what the example's main returns."""
    return runpy.run_path(str(path))['main']()


@pytest.mark.parametrize('path', EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 140


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in GAINS
    ],
)
def test_the_example_runs_and_gains(path: Path) -> None:
    teacher, alone, taught = run(path)
    assert teacher > taught > alone + 1


@pytest.mark.slow
def test_peers_teach_each_other() -> None:
    found = run(next(path for path in EXAMPLES if path.stem == 'afd'))
    assert min(found['mutual learning'], found['AFD']) > found['alone'] + 0.5


@pytest.mark.slow
def test_a_student_learns_from_within_its_teacher() -> None:
    found = run(next(path for path in EXAMPLES if path.stem == 'internal_representations'))
    assert found['teacher'] > found['stacked'] > max(found['soft'], found['alone']) + 1


@pytest.mark.slow
def test_noise_makes_robust_at_little_cost() -> None:
    """More than the teacher without noise, and than the noise without a teacher."""
    found = run(next(path for path in EXAMPLES if path.stem == 'noisy_collaboration'))
    clean, attacked = ({name: values[i] for name, values in found.items()} for i in (0, 1))
    assert attacked['soft'] > max(
        attacked['noise_alone'], attacked['kd'] + 10, attacked['alone'] + 10
    )
    assert clean['soft'] > clean['kd'] - 2
    assert clean['fickle'] > clean['alone'] + 1
