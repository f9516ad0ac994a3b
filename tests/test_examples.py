"""Each example is short, and shows the gain that it asserts."""
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / 'examples').glob('*.py'))


@pytest.mark.parametrize('path', EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_runs_and_gains(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120
    teacher, alone, taught = runpy.run_path(str(path))['main']()
    assert teacher > taught > alone + 1
