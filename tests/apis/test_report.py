"""mmkd report: tables by value, from folders as the tools write them."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from helpers.reports import write_run
from helpers.runs import ROOT

from mmkd.apis.report import gap_closed, less_is_better, main_metric, markdown, write_into
from mmkd.apis.results import read_row
from mmkd.utils.averages import spread


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for seed, (alone, kd) in enumerate([(40.0, 46.0), (42.0, 48.0), (44.0, 50.0)]):
        write_run(tmp_path / f'alone/seed_{seed}', alone, 50.0 + seed)
        write_run(tmp_path / f'kd/seed_{seed}', kd, 80.0)
    write_run(tmp_path / 'teacher', 54.0, 200.0)
    return tmp_path


def test_the_whole_table_by_value(work: Path) -> None:
    rows = [
        read_row(f'{label}={work / folder}')
        for label, folder in [('T', 'teacher'), ('student alone', 'alone'), ('+ KD', 'kd')]
    ]
    assert (
        markdown(rows, ['mIoU', 'aAcc'], baseline='student alone', teacher='T')
        == """\
| row | mIoU of each run | mIoU | aAcc | gain | gap closed | time |
| --- | --- | --- | --- | --- | --- | --- |
| T | 54.00 | 54.00 | 90.00 | +12.00 | – | 200 s CPU |
| student alone | 40.00, 42.00, 44.00 | 42.00 ± 2.00 | 90.00 ± 0.00 | – | – | 51 s CPU |
| + KD | 46.00, 48.00, 50.00 | 48.00 ± 2.00 | 90.00 ± 0.00 | +6.00 | 50 % | 80 s CPU |

1 to 3 runs a row, mean ± sample standard deviation. \
device: A CPU, 1 threads. torch: 2.13.0. mmkd: 0.1.0.
"""
    )


def test_a_row_is_called_like_its_folder_and_finds_its_metric(work: Path) -> None:
    table = markdown([read_row(str(work / 'kd'))]).splitlines()
    assert table[0] == '| row | mIoU of each run | mIoU | time |'
    assert table[2] == '| kd | 46.00, 48.00, 50.00 | 48.00 ± 2.00 | 80 s CPU |'


def test_a_row_of_the_folder_one_is_in_has_its_name(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / 'kd')
    assert [read_row(path).label for path in ('.', 'seed_0/..', '../teacher')] == [
        'kd',
        'kd',
        'teacher',
    ]
    (work / 'link').symlink_to(work / 'kd')
    assert read_row('../link').label == 'link'


def test_the_newest_test_counts(work: Path) -> None:
    write_run(work / 'kd/seed_0', 47.0, time='20260102_000000')
    assert read_row(str(work / 'kd')).values('mIoU') == [47.0, 48.0, 50.0]


@pytest.mark.parametrize(
    ('changes', 'early'),
    [
        (dict(ended='20260101_000001'), True),
        (dict(ended='20251231_235959'), False),
        (dict(ended='20260101_000001', log='20260101_000000'), False),  # one Runner did both
        (dict(ended=5), False),
        (dict(ended='tomorrow'), False),
    ],
)
def test_a_test_of_earlier_weights_is_told(tmp_path: Path, changes: dict, early: bool) -> None:
    write_run(tmp_path / 'kd', 50.0, **changes)
    said = markdown([read_row(str(tmp_path / 'kd'))])
    assert ('Tested before the training ended, so not its last weights: kd.' in said) == early


@pytest.mark.bad_input
@pytest.mark.parametrize('value', [1.7e308, int('9' * 400)])
def test_values_too_large_for_a_mean_are_refused(tmp_path: Path, value: float) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f'a/seed_{seed}', value)
        write_run(tmp_path / f'b/seed_{seed}', 40.0, seconds=value)
    with pytest.raises(ValueError, match='and a mean of it says nothing'):
        markdown([read_row(str(tmp_path / 'a'))])
    with pytest.raises(ValueError, match='cpu_seconds must be a number|seconds must be a number'):
        read_row(str(tmp_path / 'b'))


def test_wall_time_counts_on_a_gpu(tmp_path: Path) -> None:
    write_run(tmp_path / 'run', 50.0, peak_gpu_mib=900, device='A GPU')
    assert '| 100 s |' in markdown([read_row(str(tmp_path / 'run'))])


def test_unequal_budgets_and_missing_records_are_told(work: Path) -> None:
    write_run(work / 'long/seed_0', 49.0, iterations=300)
    write_run(work / 'old/seed_0', 40.0, seconds=None)
    table = markdown([read_row(str(work / name)) for name in ('kd', 'long', 'old')])
    assert '1 of 5 runs have no run.json.' in table
    assert (
        'Budgets differ (iterations × batch × processes): kd 100 × 8 × 1; long 300 × 8 × 1.'
        in table
    )
    assert table.splitlines()[4].endswith('| 40.00 | 40.00 | ? |')


def test_tests_of_other_images_are_told(tmp_path: Path) -> None:
    """Of another set, of a part of it, or of another size; a test from before may be of any."""

    def table(**tests: tuple) -> str:
        for name, (dataset, images, size) in tests.items():
            write_run(tmp_path / name, 40.0)
            on = tmp_path / name / 'test/20260101_000000/tested_on.json'
            on.write_text(json.dumps(dict(dataset=dataset, images=images, pipeline=f'[{size}]')))
        write_run(tmp_path / 'old', 41.0)
        rows = [read_row(str(tmp_path / name)) for name in ('old', *tests)]
        shutil.rmtree(tmp_path / 'old')
        return markdown(rows).splitlines()[-1]

    assert 'est' not in table(a=('CamVid', 233, 96), b=('CamVid', 233, 96)).split('mmkd:')[1]
    assert table(c=('CamVid', 233, 96), d=('CamVid', 60, 96)).endswith(
        'Tests differ (data set × images): c CamVid × 233; d CamVid × 60.'
    )
    assert table(e=('CamVid', 233, 96), f=('CamVid', 233, 48)).endswith(
        'Test pipelines differ, so images are not of one size or one preparation.'
    )


@pytest.mark.parametrize(
    ('values', 'expected'),
    [([1.0, 2.0, 6.0], '3.00 ± 2.65'), ([7.0], '7.00'), ([0.5, 2.5], '1.50 ± 1.41')],
)
def test_spread_is_the_sample_standard_deviation(values: list[float], expected: str) -> None:
    assert spread(values, 2) == expected


@pytest.mark.bad_input
def test_where_less_is_better_a_gain_is_for_the_better(tmp_path: Path) -> None:
    assert gap_closed(0.25, 0.30, 0.20) == pytest.approx(50)
    for name, error in (('alone', 0.30), ('kd', 0.25), ('worse', 0.31), ('teacher', 0.20)):
        write_run(tmp_path / name, error, metric='abs_rel')
    rows = [read_row(str(tmp_path / name)) for name in ('teacher', 'alone', 'kd', 'worse')]
    table = markdown(rows, baseline='alone', teacher='teacher').splitlines()
    assert table[0] == '| row | abs_rel of each run | abs_rel ↓ | gain | gap closed | time |'
    assert table[2:6] == [
        '| teacher | 0.200 | 0.200 | +0.100 | – | 50 s CPU |',
        '| alone | 0.300 | 0.300 | – | – | 50 s CPU |',
        '| kd | 0.250 | 0.250 | +0.050 | 50 % | 50 s CPU |',
        '| worse | 0.310 | 0.310 | -0.010 | -10 % | 50 s CPU |',
    ]
    assert '↓: less is better; a gain is for the better.' in table[-1]
    with pytest.raises(
        ValueError,
        match=r"'worse' \(abs_rel 0.31\) is not better than 'alone' \(0.3\), so there is",
    ):
        markdown(rows, baseline='alone', teacher='worse')


@pytest.mark.parametrize('name', ['abs_rel', 'rmse_log', 'NLL', 'Brier', 'ECE', 'error'])
def test_the_prefix_of_a_metric_says_nothing_of_its_direction(name: str) -> None:
    assert all(less_is_better(f'{prefix}{name}') for prefix in ('', 'ood/', 'calibration/', 'a/b/'))
    assert not any(map(less_is_better, [f'{name}/mIoU', 'error_free', 'ood/AUROC_error']))


def test_what_is_called_a_loss_is_one() -> None:
    losses = ['loss', 'val_loss', 'val/loss_ce', 'decode.loss_ce', 'miss_rate', 'fpr@95', 'log_10']
    assert all(map(less_is_better, losses))
    assert not any(map(less_is_better, ['lossless', 'no_loss_share_x/mIoU', 'floss']))


def test_runs_without_a_metric_in_common(tmp_path: Path) -> None:
    rows = []
    for name, metrics in (('a', dict(abs_rel=0.3)), ('b', dict(mIoU=40.0))):
        write_run(tmp_path / name, 40.0)
        (test,) = (tmp_path / name).rglob('2*.json')
        test.write_text(json.dumps(metrics))
        rows.append(read_row(str(tmp_path / name)))
    said = r"in common: a has \['abs_rel'\]; b has \['mIoU'\]. Mend: rows of one kind"
    with pytest.raises(KeyError, match=said):
        markdown(rows)


def test_a_run_within_a_run_is_another(tmp_path: Path) -> None:
    """Such as that of its teacher, tested later."""
    write_run(tmp_path / 'kd', 40.0)
    write_run(tmp_path / 'kd/teacher', 90.0, time='20991231_000000')
    assert read_row(str(tmp_path / 'kd')).values('mIoU') == [40.0]
    assert read_row(str(tmp_path / 'kd/teacher')).values('mIoU') == [90.0]


def test_a_column_has_one_number_of_digits(tmp_path: Path) -> None:
    write_run(tmp_path / 'a', 1.9)
    write_run(tmp_path / 'b', 2.1)
    table = markdown([read_row(str(tmp_path / name)) for name in 'ab']).splitlines()
    assert [line.split(' | ')[1] for line in table[2:4]] == ['1.90', '2.10']


def test_budgets_that_differ_within_a_row_and_seeds_that_differ_between_rows_are_told(
    tmp_path: Path,
) -> None:
    for name, seeds, budgets in (('a', (0, 1), (100, 300)), ('b', (0, 2), (100, 300))):
        for seed, budget in zip(seeds, budgets, strict=True):
            write_run(
                tmp_path / f'{name}/seed_{seed}',
                40.0,
                seed=seed,
                iterations=budget,
                accumulative_counts=seed + 1,
            )
    told = markdown([read_row(str(tmp_path / name)) for name in 'ab']).splitlines()[-1]
    assert told.endswith(
        'Budgets differ (iterations × batch × processes): a 100 × 8 × 1, 300 × 8 × 1, a step every '
        '2; b 100 × 8 × 1, 300 × 8 × 1, a step every 3. Seeds differ: a 0, 1; b 0, 2.'
    )


def test_what_a_record_lacks_is_unknown(tmp_path: Path) -> None:
    write_run(tmp_path / 'a', 40.0)
    (tmp_path / 'a/run.json').write_text('{"cpu_seconds": 3.0, "iterations": 5}')
    table = markdown([read_row(str(tmp_path / 'a'))])
    assert '| 3 s CPU |' in table
    assert 'device: unknown. torch: unknown.' in table


def test_a_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    write_run(tmp_path / 'lr=0.1', 40.0)
    assert read_row(f'kd={tmp_path}/lr=0.1').label == 'kd'
    assert read_row(f'{tmp_path}/lr=0.1').label == 'lr=0.1'
    write_run(tmp_path / 'plain', 41.0)
    assert read_row(f'lr=0.1={tmp_path}/plain').label == 'lr=0.1'


@pytest.mark.bad_input
def test_a_folder_of_several_runs_is_no_run(tmp_path: Path) -> None:
    for name in ('all/recipe1', 'all/recipe2', 'one/run_0'):
        write_run(tmp_path / name, 40.0)
    with pytest.raises(
        ValueError, match='all is a folder of runs: recipe1, recipe2. Mend: one argument LABEL=DIR'
    ):
        read_row(str(tmp_path / 'all'))
    with pytest.raises(ValueError, match='one is a folder of runs: run_0'):
        read_row(str(tmp_path / 'one'))
    for name in ('clean', 'ood'):
        write_run(tmp_path / 'tests' / name, 40.0)
        (tmp_path / 'tests' / name / 'run.json').unlink()
    with pytest.raises(
        ValueError, match='tests holds several tests: clean, ood. Mend: one argument LABEL=DIR'
    ):
        read_row(str(tmp_path / 'tests'))


@pytest.mark.bad_input
def test_runs_of_one_seed_or_of_two_recipes_are_no_row(tmp_path: Path) -> None:
    for row, records in (
        ('twice', (dict(seed=1), dict(seed=1))),
        ('mixed', (dict(config='a.py'), dict(config='b.py'))),
    ):
        for number, record in enumerate(records):
            write_run(tmp_path / row / f'seed_{number}', 40.0, **record)
    for seed in (0, 1):  # as mmkd compare calls them
        write_run(tmp_path / 'kd' / f'seed_{seed}', 40.0, seed=seed, config=f'seed_{seed}.py')
    assert len(read_row(str(tmp_path / 'kd')).runs) == 2
    with pytest.raises(ValueError, match=r'twice holds runs of one seed twice \(seed 1, 1\)'):
        read_row(str(tmp_path / 'twice'))
    with pytest.raises(
        ValueError, match=r'mixed holds runs of several recipes \(config a.py, b.py\)'
    ):
        read_row(str(tmp_path / 'mixed'))


@pytest.mark.bad_input
def test_a_metric_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / 'a', float('nan'))
    with pytest.raises(
        ValueError,
        match='mIoU of .*a is nan, and a mean of it says nothing. Mend: look into its log',
    ):
        markdown([read_row(str(tmp_path / 'a'))])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('file', 'mend'),
    [
        ('test/20260101_000000/20260101_000000.json', 'test it again'),
        ('run.json', 'train it again, or remove that file'),
    ],
)
@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'{"mIoU": 1', 'is cut short or no JSON'),
        (b'', 'is cut short or no JSON'),
        (b'\xff\xfe', 'is cut short or no'),
        (b'[1]', 'holds a list where a dictionary is written'),
        (b'null', 'holds a NoneType where'),
    ],
)
def test_a_file_that_is_cut_short_is_named(
    tmp_path: Path, file: str, mend: str, content: bytes, fault: str
) -> None:
    write_run(tmp_path / 'run', 40.0)
    (tmp_path / 'run' / file).write_bytes(content)
    with pytest.raises(ValueError, match=fault) as raised:
        read_row(str(tmp_path / 'run'))
    assert str(raised.value).startswith(f'{tmp_path}/run/{file} ')
    assert str(raised.value).endswith(f'Mend: {mend}')


def test_the_tool_writes_between_two_lines(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = work / 'README.md'
    page.write_text(
        '# Title\n<!-- report main -->\nold\n<!-- end of report main -->\nafter\n', encoding='utf-8'
    )
    rows = [f'alone={work / "alone"}', f'kd={work / "kd"}']
    monkeypatch.setattr(
        sys,
        'argv',
        ['report.py', *rows, '--baseline', 'alone', '--into', str(page), '--name', 'main'],
    )
    for _ in range(2):  # the second time replaces the same table
        runpy.run_path(str(ROOT / 'tools/report.py'), run_name='__main__')
        text = page.read_text(encoding='utf-8')
        assert text.startswith(
            '# Title\n<!-- report main -->\n| row | mIoU of each run | mIoU | gain | time |\n'
        )
        assert text.endswith('mmkd: 0.1.0.\n<!-- end of report main -->\nafter\n')
        assert 'old' not in text
        assert text.count('| kd | ') == 1


@pytest.mark.parametrize('line_end', ['\n', '\r\n'])
def test_a_file_keeps_its_line_ends(tmp_path: Path, line_end: str) -> None:
    page = tmp_path / 'README.md'
    marks = ['# Title', '<!-- report main -->', 'old', '<!-- end of report main -->', 'after', '']
    page.write_bytes(line_end.join(marks).encode())
    write_into(page, 'main', f'| row |\n\n{"device: a CPU. " * 20}\n')
    new = page.read_bytes().decode()
    assert new.startswith(
        line_end.join(['# Title', '<!-- report main -->', '| row |', '', 'device'])
    )
    assert new.endswith(line_end.join(['', '<!-- end of report main -->', 'after', '']))
    assert len(new.splitlines()) > 8
    assert new.count('\n') == new.count(line_end) == len(new.splitlines())


def test_sentences_in_a_file_are_wrapped_and_rows_are_not(tmp_path: Path) -> None:
    page = tmp_path / 'README.md'
    page.write_text('<!-- report main -->\n<!-- end of report main -->\n', encoding='utf-8')
    row, sentence = f'| {"wide " * 40}|', 'device: a CPU. ' * 20
    write_into(page, 'main', f'{row}\n\n{sentence}\n')
    _, first, empty, *wrapped, _ = page.read_text(encoding='utf-8').splitlines()
    assert (first, empty) == (row, '')
    assert ' '.join(wrapped) == sentence.strip()
    assert max(map(len, wrapped)) <= 120


@pytest.mark.bad_input
def test_refusals(work: Path) -> None:
    kd, alone = read_row(str(work / 'kd')), read_row(str(work / 'alone'))
    with pytest.raises(
        FileNotFoundError, match='nowhere is no folder. Mend: a work dir of mmkd train'
    ):
        read_row('x=nowhere')
    with pytest.raises(FileNotFoundError, match='^/nowhere is no folder'):
        read_row('lr=0.1=/nowhere')
    (work / 'untested').mkdir()
    with pytest.raises(
        FileNotFoundError, match='untested holds no result of a test. Mend: mmkd test CONFIG'
    ):
        read_row(str(work / 'untested'))
    with pytest.raises(KeyError, match="seed_0 has no metric 'mIou'; did you mean 'mIoU'"):
        markdown([kd], ['mIou'])
    with pytest.raises(KeyError, match="baseline='alon' is no row; did you mean 'alone'"):
        markdown([kd, alone], baseline='alon')
    with pytest.raises(ValueError, match='Mend: --baseline LABEL'):
        markdown([kd, alone], teacher='alone')
    with pytest.raises(ValueError, match='two rows have one label'):
        markdown([kd, kd])
    write_run(work / 'same', 42.0)
    with pytest.raises(
        ValueError,
        match=r"'same' \(mIoU 42\) is not better than 'alone' \(42\), so there is no gap",
    ):
        markdown([alone, read_row(str(work / 'same'))], baseline='alone', teacher='same')
    other = work / 'other/20260101_000000'
    other.mkdir(parents=True)
    (other / '20260101_000000.json').write_text('{"words": 3}')
    with pytest.raises(
        KeyError, match=r"no usual metric is in every run. Mend: --metric, one of \['words'\]"
    ):
        main_metric([read_row(str(work / 'other'))])
    page = work / 'page.md'
    page.write_text('<!-- end of report a -->\n<!-- report a -->\n', encoding='utf-8')
    with pytest.raises(
        ValueError, match='has no place for the table. Mend: the lines <!-- report a -->'
    ):
        write_into(page, 'a', 'table\n')


def test_images_without_labels_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / 'a', 30.0, images=dict(labelled=92, unlabelled=275))
    write_run(tmp_path / 'b', 31.0)
    rows = [read_row(str(tmp_path / name)) for name in 'ab']
    assert 'Images with and without labels: a 92 + 275.' in markdown(rows)
