"""The page of a report: what is in it by value, what it escapes, and that a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import texts
from helpers.reports import write_run
from helpers.runs import run_config, train
from helpers.shells import here, refusal
from helpers.tiny import segmentor
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmkd.apis.launch import build_runner
from mmkd.apis.page import differences
from mmkd.apis.page.build import make_page, tell_best
from mmkd.apis.page.charts import STYLES, line_chart, marker, ticks
from mmkd.apis.page.charts import Line as ChartLine
from mmkd.apis.page.classes import per_class
from mmkd.apis.page.curves import mean_curve, read_curves
from mmkd.apis.page.differences import find_differences
from mmkd.apis.page.picture import make_picture
from mmkd.apis.page.predictions import (
    NEITHER,
    STUDENT_RIGHT,
    TEACHER_RIGHT,
    Boxes,
    Classes,
    Depths,
    Labels,
)
from mmkd.apis.prepare import prepare_config
from mmkd.apis.report import make_table, markdown
from mmkd.apis.results import read_row
from mmkd.tasks.classification import Classification
from mmkd.tasks.depth import Depth
from mmkd.tasks.detection import Detection
from mmkd.tasks.segmentation import Segmentation

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'google-chrome'))), None)
HOSTILE = '<script>document.title="harm"</script>'


def write_log(folder: Path, name: str, *lines: Any) -> None:
    """Write the scalars of one start of a run."""
    file = folder / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(
        '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )


def write_curves(folder: Path, end: float, name: str = '20260101_000000') -> None:
    steps = [
        {'loss': 2 / step, 'decode.loss_ce': 1 / step, 'lr': 0.1, 'time': 0.2, 'step': 100 * step}
        for step in (1, 2, 3)
    ]
    values = [{'mIoU': end * step / 3, 'aAcc': 80.0, 'step': 100 * step} for step in (1, 2, 3)]
    pairs = zip(steps, values, strict=True)
    write_log(folder, name, *(line for pair in pairs for line in pair))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder of a teacher, a student alone and one with KD, three seeds each."""
    for seed, (alone, kd) in enumerate([(40.0, 46.0), (42.0, 48.0), (44.0, 50.0)]):
        for name, end in (('alone', alone), ('kd', kd)):
            folder = tmp_path / f'{name}/seed_{seed}'
            write_run(folder, end, 50.0)
            write_curves(folder, end)
            classes = dict(wall=end + 10, box=end - 10, sky=None)
            written = folder / 'test/20260101_000000/per_class.json'
            written.write_text(json.dumps(dict(IoU=classes)))
    write_run(tmp_path / 'teacher', 54.0, 200.0)
    return tmp_path


def rows_of(work: Path, **labels: str) -> list:
    named = labels or dict(teacher='teacher', alone='alone', kd='kd')
    return [read_row(f'{label}={work / folder}') for folder, label in named.items()]


class Page(HTMLParser):
    """What a page holds: its elements, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('th', 'td'):
            self.tables[-1][-1].append('')
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ('th', 'td'):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self) -> str:
        return ' '.join(' '.join(self.words).split())


def cells_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith('|') and '---' not in line]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines]


# ---------------------------------------------------------------- curves


def test_the_later_start_of_a_run_counts_and_what_is_no_number_does_not(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        '20260101_000000',
        dict(loss=3.0, lr=0.1, step=1),
        dict(loss=2.0, step=2),
        dict(mIoU=10.0, time=1.0, step=2),
        '{"loss": 1.5, "st',
    )
    write_log(
        tmp_path,
        '20260102_000000',
        dict(loss=2.5, iter=2),
        dict(loss=float('nan'), step=3),
        dict(loss=True, step=4),
        [1],
        dict(mIoU=20.0, step=4),
    )
    write_log(tmp_path, 'elsewhere', dict(loss=9.0, step=9))
    losses, metrics = read_curves(tmp_path)
    assert losses == dict(loss=[(1, 3.0), (2, 2.5)])
    assert metrics == dict(mIoU=[(4, 20.0)])  # the other one is of weights that were trained anew


def test_a_metric_that_is_called_a_loss_is_of_the_validation(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        '20260101_000000',
        {'loss': 3.0, 'lr': 0.1, 'step': 10},
        {'student.loss_ce': 2.0, 'student.lr': 0.1, 'step': 20},
        dict(mIoU=10.0, val_loss=0.5, step=1),
    )
    losses, metrics = read_curves(tmp_path)
    assert losses == {'loss': [(10, 3.0)], 'student.loss_ce': [(20, 2.0)]}
    assert metrics == dict(mIoU=[(20, 10.0)], val_loss=[(20, 0.5)])


@pytest.mark.parametrize('steps', [(0, 0), (1, 2), (100, 200)], ids=['none', 'epochs', 'iters'])
def test_a_validation_is_where_the_training_was(tmp_path: Path, steps: tuple[int, int]) -> None:
    write_log(
        tmp_path,
        '20260101_000000',
        dict(loss=3.0, step=50),
        dict(loss=2.0, step=100),
        dict(mIoU=10.0, step=steps[0]),
        dict(loss=1.0, step=200),
        dict(mIoU=20.0, step=steps[1]),
    )
    assert read_curves(tmp_path)[1] == dict(mIoU=[(100, 10.0), (200, 20.0)])


def test_a_run_that_was_begun_anew_has_nothing_of_the_old_one(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        '20260101_000000',
        *(dict(loss=9.0, loss_old=9.0, step=step) for step in (50, 100, 150)),
        dict(mIoU=90.0, step=150),
    )
    write_log(
        tmp_path, '20260102_000000', dict(mIoU=5.0, step=0)
    )  # no training: nothing is dropped
    assert read_curves(tmp_path)[1] == dict(mIoU=[(0, 5.0), (150, 90.0)])
    write_log(tmp_path, '20260103_000000', dict(loss=1.0, step=50), dict(mIoU=10.0, step=50))
    losses, metrics = read_curves(tmp_path)
    assert losses == dict(loss=[(50, 1.0)])
    assert metrics == dict(mIoU=[(0, 5.0), (50, 10.0)])


def test_huge_values_are_no_values(tmp_path: Path) -> None:
    huge = int('9' * 400)
    lines = [dict(loss=1.0, step=1), dict(loss=1.7e308, step=2), dict(loss=huge, step=3)]
    write_log(tmp_path, '20260101_000000', *lines, dict(loss=2.0, step=huge))
    assert read_curves(tmp_path)[0] == dict(loss=[(1, 1.0)])


def test_the_mean_is_over_what_all_runs_have() -> None:
    assert mean_curve([]) == []
    assert mean_curve([[(1, 1.0)], [(2, 1.0)]]) == []


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (0, 40000, [0, 10000, 20000, 30000, 40000]),
        (44.1, 60.9, [45, 50, 55, 60]),
        (0.012, 0.019, [0.012, 0.014, 0.016, 0.018]),
        (5.0, 5.0, [5.0]),
        (0, 5e-11, [0, 1e-11, 2e-11, 3e-11, 4e-11, 5e-11]),
        (0, 5e-324, [0]),
        (0, 1e300, [0, 2e299, 4e299, 6e299, 8e299, 1e300]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected, abs=0)


def test_lines_differ_without_colours() -> None:
    lines = [ChartLine(str(style), [[(0, 1.0), (9, 2.0)]], style) for style in range(STYLES)]
    drawn = line_chart('a', lines, 'about', 'x')
    dashes = re.findall(r'class="mean s\d" d="[^"]*"(?: stroke-dasharray="([^"]*)")?', drawn)
    assert len(set(dashes)) == STYLES
    assert len({marker(style, 0, 0) for style in range(STYLES)}) == STYLES


def test_a_curve_ends_where_its_values_are() -> None:
    """Values 0 and 10 over 100 iterations: the axis has 5 % above and below."""
    drawn = line_chart('a', [ChartLine('one', [[(0, 0.0), (100, 10.0)]], 0)], 'about', 'x')
    path = re.search(r'class="mean s0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', drawn)
    assert path is not None
    x0, y0, x1, y1 = map(float, path.groups())
    assert (x0, x1) == (46, 418)
    assert (y0 - y1) / (230 - 12) == pytest.approx(10 / 11, abs=1e-3)


# ---------------------------------------------------------------- the page


def test_the_page_has_the_numbers_of_the_markdown_table(work: Path) -> None:
    rows = rows_of(work)
    page = Page(make_page(rows, ['mIoU', 'aAcc'], 'alone', 'teacher'))
    table = markdown(rows, ['mIoU', 'aAcc'], 'alone', 'teacher')
    assert page.tables[0] == cells_of(table)
    assert page.tables[0][3][2:] == ['48.00 ± 2.00', '90.00 ± 0.00', '+6.00', '50 %', '50 s CPU']
    text = page.text()
    assert 'kd gains 6.00 of mIoU beside alone (48.00 instead of 42.00): 50 % of the gap' in text
    assert table.splitlines()[-1] in text


def test_the_page_shows_curves_and_classes(work: Path) -> None:
    page = Page(make_page(rows_of(work), baseline='alone', teacher='teacher'))
    text = page.text()
    validation, cross_entropy, total, classes = page.tables[1:]
    assert validation[0] == ['iteration', '100', '200', '300']
    assert validation[1:] == [['alone', '14', '28', '42'], ['kd', '16', '32', '48']]
    assert cross_entropy[1] == ['alone', '1', '0.5', '0.3333']
    assert total[1] == ['alone', '2', '1', '0.6667']
    assert classes[0] == ['class', 'alone', 'kd']
    assert classes[1] == ['wall', '52.00', '58.00 (+6.00)']
    assert classes[2] == ['box', '32.00', '38.00 (+6.00)']
    assert len(classes) == 3  # sky is in no label and in no prediction
    assert 'Without such values: teacher.' in text
    titles = [attrs for attrs in page.all('svg') if attrs.get('role') == 'img']
    assert len(titles) == 4
    assert all(attrs['aria-labelledby'] for attrs in titles)


def test_the_page_needs_nothing_else(work: Path) -> None:
    page = Page(make_page(rows_of(work)))
    assert not page.all('script')
    for tag, attrs in page.elements:
        for key in ('src', 'href', 'action'):
            assert attrs.get(key, 'data:').startswith('data:'), (tag, attrs)
    assert 'url(' not in make_page(rows_of(work))
    assert '@import' not in make_page(rows_of(work))


def test_the_page_is_laid_out_for_readers(work: Path) -> None:
    page = Page(make_page(rows_of(work), title='A & B'))
    assert page.all('html') == [dict(lang='en')]
    assert 'A & B' in page.text()
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r'h\d', tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    identifiers = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
    assert len(set(identifiers)) == len(identifiers)
    for attrs in page.all('section'):
        assert attrs['aria-labelledby'] in identifiers
    assert all(attrs.get('scope') in ('row', 'col') for attrs in page.all('th'))
    assert len(page.all('caption')) == len(page.tables)


@pytest.mark.hostile_file
def test_what_a_record_says_is_text_alone(work: Path) -> None:
    for name in ('alone', 'kd'):
        for seed in range(3):
            folder = work / name / f'seed_{seed}'
            record = json.loads((folder / 'run.json').read_text())
            (folder / 'run.json').write_text(json.dumps(dict(record, device=HOSTILE)))
            written = folder / 'test/20260101_000000/per_class.json'
            written.write_text(json.dumps({f'IoU{HOSTILE}': {HOSTILE: 1.0}, 'other': 7}))
            write_log(folder, '20260103_000000', {f'loss {HOSTILE}': 1.0, 'step': 1})
    label = f'kd{HOSTILE}'
    rows = [*rows_of(work, alone='alone'), *rows_of(work, kd=label)]
    page = make_page(rows, baseline='alone', title=HOSTILE)
    assert '<script' not in page
    parsed = Page(page)
    assert not parsed.all('script')
    assert parsed.text().count(HOSTILE) >= 6
    assert parsed.tables[0][2][0] == make_table(rows).lines[1][0]


def test_runs_without_logs_and_with_other_metrics_have_a_page(tmp_path: Path) -> None:
    for name, error in (('alone', 0.30), ('kd', 0.25), ('teacher', 0.20)):
        write_run(tmp_path / name, error, metric='abs_rel')
    page = Page(make_page(rows_of(tmp_path), baseline='alone', teacher='teacher'))
    assert 'kd gains 0.050 of abs_rel beside alone (0.250 instead of 0.300): 50 %' in page.text()
    assert 'No run was validated while it trained' in page.text()
    assert 'no log of the losses' in page.text()
    assert 'stored no values of single classes' in page.text()
    assert len(page.tables) == 1


def test_seeds_without_a_common_iteration_have_curves_and_no_mean(tmp_path: Path) -> None:
    for seed, step in enumerate((10, 20)):
        write_run(tmp_path / f'kd/seed_{seed}', 40.0)
        write_log(tmp_path / f'kd/seed_{seed}', '20260101_000000', dict(loss=1.0, step=step))
    page = Page(make_page(rows_of(tmp_path, kd='kd')))
    assert page.tables[1] == [['iteration'], ['kd']]


def test_the_best_student_may_lose(work: Path) -> None:
    rows = rows_of(work, alone='alone', kd='kd')
    assert tell_best(rows, 'mIoU', None, None) is None
    assert tell_best(rows, 'mIoU', 'kd', None) == (
        'alone loses 6.00 of mIoU beside kd (42.00 instead of 48.00).'
    )


def test_the_sentence_has_the_digits_of_the_table(tmp_path: Path) -> None:
    """One run is above 2, every mean is below: two digits in both."""
    for name, values in (('alone', (0.9, 2.1)), ('kd', (1.0, 1.996))):
        for seed, value in enumerate(values):
            write_run(tmp_path / f'{name}/seed_{seed}', value)
    rows = rows_of(tmp_path, alone='alone', kd='kd')
    assert tell_best(rows, 'mIoU', 'alone', None) == (
        'kd gains 0.00 of mIoU beside alone (1.50 instead of 1.50).'
    )
    assert make_table(rows, baseline='alone').lines[1][3] == '+0.00'


def test_a_gap_that_is_not_closed_has_no_sign(tmp_path: Path) -> None:
    for name, value in (('alone', 50.0), ('kd', 49.99), ('teacher', 60.0)):
        write_run(tmp_path / name, value)
    rows = rows_of(tmp_path)
    assert make_table(rows, (), 'alone', 'teacher').lines[2][-2] == '0 %'
    assert str(tell_best(rows, 'mIoU', 'alone', 'teacher')).endswith(
        ': 0\N{NO-BREAK SPACE}% of the gap to teacher.'
    )


def test_many_losses_without_their_sum_have_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / 'kd', 40.0)
    losses = {f'loss_{index}': 1.0 for index in range(9)}
    write_log(tmp_path / 'kd', '20260101_000000', losses | dict(loss=float('nan'), step=1))
    page = Page(make_page(rows_of(tmp_path, kd='kd')))
    names = [title for title in page.text().split() if title.startswith('loss_')]
    assert list(dict.fromkeys(names)) == [f'loss_{index}' for index in range(8)]


def test_a_label_with_an_underscore_is_in_the_legend(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    make_picture(rows_of(work, alone='_alone', kd='kd'))
    legend = drawn[0].axes[1].get_legend()
    assert [each.get_text().strip() for each in legend.get_texts()] == ['_alone', 'kd']


def test_bars_are_parts_of_the_largest_gain(work: Path) -> None:
    written = work / 'kd/seed_0/test/20260101_000000/per_class.json'
    written.write_text(json.dumps(dict(IoU=dict(wall=56.0, box=0.0))))
    (table,) = per_class(rows_of(work), 'alone')
    shares = {name: cells[1].share for name, cells in table.classes}
    assert shares == dict(wall=pytest.approx(6 / 6), box=pytest.approx(-6 / 6))


def test_the_picture_is_a_png_of_two_charts(work: Path, tmp_path: Path) -> None:
    import cv2

    both = cv2.imdecode(np.frombuffer(make_picture(rows_of(work)), np.uint8), 1)
    alone = make_picture(rows_of(work, teacher='a $x_1$ b'))
    one = cv2.imdecode(np.frombuffer(alone, np.uint8), 1)
    assert both.shape[1] == 2 * one.shape[1]
    assert both.std() > 10


# ---------------------------------------------------------------- where two predictions differ


def label_sample(truth: list, predicted: list) -> BaseDataElement:
    sample = BaseDataElement()
    sample.set_data(
        {
            Segmentation.field: PixelData(data=torch.tensor([truth])),
            'pred_sem_seg': PixelData(data=torch.tensor([predicted])),
        }
    )
    return sample


def test_label_maps_by_value() -> None:
    """Of four pixels one is void; of three the teacher, the student and neither is right once."""
    truth = [[0, 1], [2, 255]]
    teacher = label_sample(truth, [[0, 0], [1, 0]])
    student = label_sample(truth, [[1, 1], [0, 1]])
    kind = Labels(Segmentation(3), dict(palette=[[9, 0, 0], [0, 9, 0], [0, 0, 9]]))
    assert kind.disagreement(teacher, student) == 1.0
    assert kind.disagreement(teacher, teacher) == 0.0
    pictures = dict(kind.draw(np.zeros((2, 2, 3), np.uint8), teacher, student))
    assert list(pictures) == ['truth', 'teacher', 'student', 'difference']
    assert pictures['truth'].tolist() == [[[9, 0, 0], [0, 9, 0]], [[0, 0, 9], [0, 0, 0]]]
    expected = [[list(TEACHER_RIGHT), list(STUDENT_RIGHT)], [list(NEITHER), [0, 0, 0]]]
    assert pictures['difference'].tolist() == expected
    assert kind.tell(teacher, student) == [
        'They differ on 100.0 % of the pixels: the teacher is right on 33.3 %, the student on '
        '33.3 %, neither on 33.3 %.'
    ]


def test_an_image_without_labels_is_told_so() -> None:
    sample = label_sample([[255, 255]], [[0, 1]])
    kind = Labels(Segmentation(3), {})
    assert kind.disagreement(sample, sample) == 0
    assert kind.tell(sample, sample) == ['No pixel has a label, so none is compared.']


def test_depth_maps_by_value() -> None:
    samples = []
    for depth in (2.0, 3.0):
        sample = BaseDataElement()
        sample.set_data(dict(pred_depth_map=PixelData(data=torch.full((1, 2, 2), depth))))
        samples.append(sample)
    kind = Depths(Depth(), {})
    assert kind.disagreement(*samples) == pytest.approx(0.5)
    pictures = dict(kind.draw(np.zeros((2, 2, 3), np.uint8), *samples))
    assert list(pictures) == ['teacher', 'student', 'difference']
    assert pictures['teacher'].mean() < pictures['student'].mean()
    assert kind.tell(*samples)[0] == 'They differ by 50.0 % on average.'


def test_distributions_by_value() -> None:
    samples = [BaseDataElement(), BaseDataElement()]
    for sample, score in zip(samples, ([0.7, 0.3, 0.0], [0.2, 0.3, 0.5]), strict=True):
        truth = {Classification.field: torch.tensor([2])}
        sample.set_data(dict(pred_score=torch.tensor(score), **truth))
    kind = Classes(Classification(3), dict(classes=('cat', 'dog', 'emu')))
    assert kind.disagreement(*samples) == pytest.approx(0.5)
    assert kind.tell(*samples) == [
        'Truth: emu.',
        'Teacher: cat 70 %, dog 30 %, emu 0 %.',
        'Student: emu 50 %, dog 30 %, cat 20 %.',
    ]


def test_boxes_by_value() -> None:
    """One box of both, one of another class, one only of the teacher, one below the score."""

    def sample(*boxes: tuple) -> BaseDataElement:
        found = InstanceData(
            bboxes=torch.tensor([box[:4] for box in boxes], dtype=torch.float),
            labels=torch.tensor([box[4] for box in boxes]),
            scores=torch.tensor([box[5] for box in boxes]),
        )
        made = BaseDataElement()
        made.set_data(dict(pred_instances=found))
        return made

    teacher = sample((0, 0, 10, 10, 0, 0.9), (20, 20, 30, 30, 0, 0.9), (40, 0, 50, 9, 0, 0.4))
    student = sample((1, 0, 11, 10, 0, 0.9), (20, 20, 30, 30, 1, 0.9), (40, 0, 50, 9, 0, 0.2))
    kind = Boxes(Detection(2), dict(classes=('a', 'b')))
    assert kind.disagreement(teacher, student) == pytest.approx(3 / 5)
    assert kind.tell(teacher, student) == [
        'Boxes with a score from 0.3 on: 3 of the teacher, 2 of the student; 2 only of the teacher '
        '(thick), 1 only of the student (thin).'
    ]
    pictures = dict(kind.draw(np.full((60, 60, 3), 100, np.uint8), teacher, student))
    assert list(pictures) == ['teacher', 'student', 'difference']
    assert pictures['difference'][0, 45].tolist() == list(TEACHER_RIGHT)
    student.set_metainfo(dict(ori_shape=(60, 60)))  # the network saw it at half the size
    small = dict(kind.draw(np.full((30, 30, 3), 100, np.uint8), teacher, student))
    assert np.array_equal(small['difference'], pictures['difference'])


# ---------------------------------------------------------------- real runs, and a browser


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a Distiller for two iterations, and test it."""
    folder = tmp_path_factory.mktemp('page')
    cfg = run_config(folder, max_iters=2)
    runner = train(cfg)
    cfg.load_from = str(folder / 'run/iter_2.pth')
    cfg.work_dir = str(folder / 'run/test')
    cfg.visualizer.name, cfg.experiment_name = 'page', 'page'
    test = build_runner(prepare_config(cfg))
    metrics = test.test()
    (found,) = folder.glob('run/test/*/per_class.json')
    classes = json.loads(found.read_text())['IoU']
    assert np.nanmean([np.nan if v is None else v for v in classes.values()]) == pytest.approx(
        float(metrics['mIoU']), abs=0.02
    )
    assert list(classes) == ['wall', 'box', 'floor']
    assert runner.iter == 2
    return folder / 'run'


def test_images_are_sorted_by_disagreement(trained: Path) -> None:
    found = find_differences([read_row(f'kd={trained}')], 3)
    assert (found.label, found.images, len(found.examples)) == ('kd', 6, 3)
    shares = [example.disagreement for example in found.examples]
    assert shares == sorted(shares, reverse=True)
    names = [picture.name for picture in found.examples[0].pictures]
    assert names == ['image', 'truth', 'teacher', 'student', 'difference']
    said = re.match(r'They differ on ([\d.]+) %', found.examples[0].said[0])
    assert said is not None
    assert float(said[1]) == pytest.approx(100 * shares[0], abs=0.06)
    assert found.legend[0] == ('wall', '#a03c3c')


def test_images_whose_disagreement_is_no_number_come_last(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.1, float('nan'), 0.3, float('nan'), 0.2, 0.5])
    monkeypatch.setattr(Labels, 'disagreement', lambda *_: next(values))
    found = find_differences([read_row(f'kd={trained}')], 4)
    assert [example.disagreement for example in found.examples] == [0.5, 0.3, 0.2, 0.1]


def test_images_of_a_run_that_counts_epochs(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(trained, folder)
    (folder / 'last_checkpoint').unlink()
    (last,) = folder.glob('iter_*.pth')
    last.rename(folder / 'epoch_2.pth')
    assert find_differences([read_row(f'kd={folder}')], 1).images == 6


def test_images_take_the_config_that_the_record_names(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(trained, folder)
    (own,) = folder.glob('*.py')
    own.rename(folder / 'recipe.py')
    (folder / 'a_note.py').write_text("model = dict(type='EncoderDecoder')\n")
    record = json.loads((folder / 'run.json').read_text())
    (folder / 'run.json').write_text(json.dumps(record | dict(config='../elsewhere/recipe.py')))
    assert find_differences([read_row(f'kd={folder}')], 1).images == 6


@pytest.mark.bad_input
def test_images_of_a_run_without_a_validation_set_are_refused(
    trained: Path, tmp_path: Path
) -> None:
    cfg = Config.fromfile(next(trained.glob('*.py')))
    cfg.val_dataloader = None
    cfg.dump(tmp_path / 'recipe.py')
    with pytest.raises(ValueError, match=r"config of 'kd' has no val_dataloader\. Mend: "):
        find_differences([read_row(f'kd={trained}')], 1, config=str(tmp_path / 'recipe.py'))


def test_a_config_that_is_given_is_of_a_distilled_row(work: Path, trained: Path) -> None:
    """Not of the last row, which here has no teacher."""
    rows = [read_row(f'distilled={trained}'), *rows_of(work)]
    cfg = next(trained.glob('*.py'))
    assert find_differences(rows, 1, config=str(cfg)).label == 'distilled'


@pytest.mark.bad_input
def test_images_of_a_run_without_a_teacher_are_refused(work: Path, trained: Path) -> None:
    with pytest.raises(ValueError, match=r'but no row is the config of a Distiller.* Mend: '):
        find_differences(rows_of(work), 1)
    rows = [*rows_of(work), read_row(f'distilled={trained}')]
    with pytest.raises(KeyError, match=r"'destilled' is no row; did you mean 'distilled'"):
        find_differences(rows, 1, 'destilled')
    with pytest.raises(ValueError, match='but kd is the config of'):
        find_differences(rows, 1, 'kd')


@pytest.mark.bad_input
def test_images_of_a_teacher_of_other_classes_are_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Classes are compared by their numbers, which would be others of one thing."""
    rows = [read_row(f'kd={trained}')]
    student = MODELS.build({**segmentor(4, num_classes=3, size=32), '_scope_': 'mmseg'})
    other = MODELS.build({**segmentor(4, num_classes=5, size=32), '_scope_': 'mmseg'})
    monkeypatch.setattr(differences, '_members', lambda *_: (other, student))
    with pytest.raises(
        ValueError, match=r"of 'kd' has other classes \(5 of them beside 3\)\. Mend"
    ):
        find_differences(rows, 1)
    monkeypatch.setattr(differences, '_members', lambda *_: (student, student))
    cfg = Config.fromfile(next(trained.glob('*.py')))
    first = next(iter(cfg.model.objectives))
    cfg.model.objectives[first].class_map = 'names'
    cfg.dump(tmp_path / 'recipe.py')
    with pytest.raises(ValueError, match=f"objective '{first}' has a class_map"):
        find_differences(rows, 1, config=str(tmp_path / 'recipe.py'))
    features = MODELS.build({**texts.classifier(), '_scope_': 'mmseg'})
    monkeypatch.setattr(differences, '_members', lambda *_: (features, student))
    with pytest.raises(ValueError, match='is a HFTextClassifier, which predicts nothing of'):
        find_differences(rows, 1)


@pytest.mark.bad_input
def test_images_of_sentences_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS.build({**texts.classifier(), '_scope_': 'mmseg'})
    monkeypatch.setattr(differences, '_members', lambda *_: (model, model))
    with pytest.raises(ValueError, match=r"'kd' is of another kind \(HFTextClassifier\)\. Mend: "):
        find_differences([read_row(f'kd={trained}')], 1)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['--images', '2'], '--images N shows them in a page: --html FILE'),
        (['--html', 'x.html', '--images-of', 'kd'], 'say which images: --images N'),
        (['--title', 'x'], '--title is the title of a page'),
        (['--html', 'x.html', '--images', '0'], 'must be a whole number of at least 1'),
    ],
)
def test_flags_without_effect_are_refused(
    flags: list[str],
    said: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        here('report.py', work / 'kd', *flags, monkeypatch=monkeypatch)
    assert said in capfd.readouterr().err


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    profile = folder / 'profile'
    shutil.rmtree(profile, ignore_errors=True)
    profile.mkdir()
    quiet = ['headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run']
    quiet += ['disable-background-networking', 'disable-component-update', 'disable-sync']
    command = [str(CHROMIUM), *(f'--{flag}' for flag in quiet), f'--user-data-dir={profile}']
    return subprocess.run(
        [*command, '--enable-logging=stderr', '--v=0', *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# beside the page, in a copy of it: it writes the sizes of pictures into the document
SIZES = """<script>addEventListener('load', () => {
const narrow = document.documentElement.scrollWidth <= innerWidth;
const sizes = [...document.images].map(i => i.naturalWidth + 'x' + i.naturalHeight);
const charts = [...document.querySelectorAll('svg[role=img]')];
const drawn = charts.map(s => s.getBoundingClientRect()).map(r => r.width > 0 && r.height > 0);
console.error('a console is heard');
document.body.dataset.found = JSON.stringify({narrow, sizes, drawn});
})</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium or google-chrome')
def test_a_browser_shows_the_page(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    import cv2

    page, picture = tmp_path / 'r.html', tmp_path / 'r.png'
    flags = ['--html', page, '--png', picture, '--images', 2]
    here('report.py', f'kd={trained}', *flags, monkeypatch=monkeypatch)
    table = capfd.readouterr().out
    assert picture.stat().st_size > 1000
    done = browse(page, tmp_path, '--dump-dom')
    assert 'CONSOLE' not in done.stderr
    dom = Page(done.stdout)
    assert dom.tables[0] == cells_of(table)
    assert len(dom.all('img')) == 10
    assert all(attrs['alt'] for attrs in dom.all('img'))

    copy = tmp_path / 'sizes.html'
    copy.write_text(page.read_text().replace('</body>', SIZES))
    done = browse(copy, tmp_path, '--dump-dom', '--window-size=500,900')
    assert 'a console is heard' in done.stderr
    found = json.loads(Page(done.stdout).all('body')[0]['data-found'])
    assert found['sizes'] == ['40x40'] * 10
    assert found['drawn']
    assert all(found['drawn'])

    frame = tmp_path / 'narrow.html'  # a window is never narrower than 500 pixels
    inside = copy.read_text().replace('&', '&amp;').replace('"', '&quot;')
    frame.write_text(f'<iframe width="400" height="900" srcdoc="{inside}"></iframe>')
    told = 'parent.document.body.dataset.narrow = narrow; document.body.dataset.found ='
    frame.write_text(frame.read_text().replace('document.body.dataset.found =', told))
    done = browse(frame, tmp_path, '--dump-dom')
    assert Page(done.stdout).all('body')[0]['data-narrow'] == 'true'

    shot = tmp_path / 'shot.png'
    browse(page, tmp_path, f'--screenshot={shot}', '--window-size=1100,1200')
    pixels = cv2.imread(str(shot))
    assert pixels.shape[:2] == (1200, 1100)
    assert pixels.std() > 10


@pytest.mark.bad_input
def test_a_page_of_a_label_that_is_not_there_is_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    flags = ['--html', work / 'r.html', '--baseline', 'alnoe']
    line = refusal('report.py', work / 'kd', *flags, monkeypatch=monkeypatch, capfd=capfd)
    assert "baseline='alnoe' is no row" in line
    assert not (work / 'r.html').exists()
