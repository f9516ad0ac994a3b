"""The demo: a few iterations of the whole story; what it prints and draws comes from the runs'
logs.
"""

import json
import re
from pathlib import Path
from statistics import mean, stdev

import cv2
import pytest
from helpers.processes import program, shell

pytestmark = pytest.mark.slow
DEMO = Path(__file__).resolve().parents[2] / 'tools' / 'demo.py'


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the print-out of a demo of two seeds, 6 iterations a training."""
    folder = tmp_path_factory.mktemp('demo')
    return folder, shell(DEMO, '--iters', 6, '--seeds', 0, 1, '--work-dir', folder, cwd=folder)


def logged_miou(folder: Path) -> float:
    """Return the mIoU that mmengine's own log of a run holds for the test scenes."""
    logs = '\n'.join(path.read_text() for path in folder.glob('*/*.log'))
    return float(re.findall(r'Iter\(test\).*mIoU: ([\d.]+)', logs)[-1])


def test_the_table_is_what_the_logs_say(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    lines = {
        cells[0].strip(): [c.strip() for c in cells[1:]]
        for cells in (line.strip('│\n ').split('│') for line in printed.splitlines())
        if len(cells) == 4
    }
    for row, name in (('student', 'student alone'), ('distill', 'student + KD')):
        values = [logged_miou(folder / f'{row}_seed{seed}') for seed in (0, 1)]
        told = [float(number) for number in lines[name][0].split(' ± ')]
        assert told == pytest.approx([mean(values), stdev(values)], abs=0.011), (
            'logs hold two digits of float32'
        )
        assert lines[name][1] == '64,847'
    assert lines['teacher'][:2] == [f'{logged_miou(folder / "teacher"):.2f}', '446,155']


def test_the_students_share_budget_seed_and_data(demo: tuple[Path, str]) -> None:
    results = json.loads((demo[0] / 'results.json').read_text())
    for alone, taught in zip(results['student'], results['distill'], strict=True):
        assert alone['iters'] == taught['iters'] == 6
        assert [step for step, _ in alone['loss']] == [step for step, _ in taught['loss']]
        assert alone['loss'][0][1] == pytest.approx(taught['loss'][0][1], rel=1e-5), (
            'same weights, same batch'
        )
    assert results['student'][0]['loss'] != results['student'][1]['loss'], 'seeds differ'


def test_both_pictures_show_something(demo: tuple[Path, str]) -> None:
    for name in ('scenes.png', 'curves.png'):
        picture = cv2.imread(str(demo[0] / name))
        assert min(picture.shape[:2]) >= 300
        assert picture.std() > 10


def test_a_trained_teacher_is_loaded(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    weights = folder / 'teacher' / 'iter_6.pth'
    before = weights.stat().st_mtime_ns
    said = shell(DEMO, '--iters', 6, '--seeds', 0, '--work-dir', folder, cwd=folder)
    assert 'The teacher is loaded' in said
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--iters', '5'], "argument --iters: must be a whole number of at least 6, got '5'"),
        (
            ['--seeds', '1', '1'],
            r'--seeds must be different whole numbers of at least 0, got [1, 1]',
        ),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, said = program(DEMO, *arguments, cwd=tmp_path)
    assert code != 0
    assert message in said


def test_a_run_that_is_none_of_the_demo_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / 'teacher' / 'iter_80000.pth'
    own.parent.mkdir()
    own.write_bytes(b'weights')
    code, said = program(DEMO, '--iters', 6, '--work-dir', tmp_path, cwd=tmp_path)
    assert code != 0
    assert 'holds a run that is none of the demo (iter_80000.pth)' in said
    assert own.read_bytes() == b'weights'
