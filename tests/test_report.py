"""tools/report.py: tables by value, from folders as the tools write them."""
import json
import runpy
import sys
from pathlib import Path

import pytest
from runs import ROOT

from mmkd.report import gap_closed, main_metric, markdown, read_row, spread, write_into

HARDWARE = dict(device='A CPU, 1 threads', torch='2.13.0', mmkd='0.1.0')


def write_run(folder: Path, miou: float, seconds: float | None = 50., time: str = '20260101_000000',
              **changes: object) -> None:
    """Write what one run and its test leave."""
    test = folder / 'test' / time
    test.mkdir(parents=True)
    (test / f'{time}.json').write_text(json.dumps({'mIoU': miou, 'aAcc': 90., 'data_time': .1, 'time': .2}))
    (folder / 'vis_data').mkdir(exist_ok=True)
    (folder / 'vis_data' / 'scalars.json').write_text('{"loss": 1}\n{"loss": 2}\n')  # no test result
    if seconds is not None:
        record = dict(seconds=2 * seconds, cpu_seconds=seconds, iterations=100, batch_size=8, processes=1, **HARDWARE)
        (folder / 'run.json').write_text(json.dumps(record | changes))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for seed, (alone, kd) in enumerate([(40., 46.), (42., 48.), (44., 50.)]):
        write_run(tmp_path / f'alone/seed_{seed}', alone, 50. + seed)
        write_run(tmp_path / f'kd/seed_{seed}', kd, 80.)
    write_run(tmp_path / 'teacher', 54., 200.)
    return tmp_path


def test_the_whole_table_by_value(work: Path) -> None:
    rows = [read_row(f'{label}={work / folder}') for label, folder in
            [('T', 'teacher'), ('student alone', 'alone'), ('+ KD', 'kd')]]
    assert markdown(rows, ['mIoU', 'aAcc'], baseline='student alone', teacher='T') == '''\
| row | mIoU of each run | mIoU | aAcc | gain | gap closed | time |
| --- | --- | --- | --- | --- | --- | --- |
| T | 54.00 | 54.00 | 90.00 | +12.00 | – | 200 s CPU |
| student alone | 40.00, 42.00, 44.00 | 42.00 ± 2.00 | 90.00 ± 0.00 | – | – | 51 s CPU |
| + KD | 46.00, 48.00, 50.00 | 48.00 ± 2.00 | 90.00 ± 0.00 | +6.00 | 50 % | 80 s CPU |

1 to 3 runs a row, mean ± sample standard deviation. device: A CPU, 1 threads. torch: 2.13.0. mmkd: 0.1.0.
'''


def test_a_row_is_called_like_its_folder_and_finds_its_metric(work: Path) -> None:
    table = markdown([read_row(str(work / 'kd'))]).splitlines()
    assert table[0] == '| row | mIoU of each run | mIoU | time |'
    assert table[2] == '| kd | 46.00, 48.00, 50.00 | 48.00 ± 2.00 | 80 s CPU |'


def test_the_newest_test_counts(work: Path) -> None:
    write_run(work / 'kd/seed_0', 47., time='20260102_000000')
    assert read_row(str(work / 'kd')).values('mIoU') == [47., 48., 50.]


def test_wall_time_counts_on_a_gpu(tmp_path: Path) -> None:
    write_run(tmp_path / 'run', 50., peak_gpu_mib=900, device='A GPU')
    assert '| 100 s |' in markdown([read_row(str(tmp_path / 'run'))])


def test_unequal_budgets_and_missing_records_are_told(work: Path) -> None:
    write_run(work / 'long/seed_0', 49., iterations=300)
    write_run(work / 'old/seed_0', 40., seconds=None)
    table = markdown([read_row(str(work / name)) for name in ('kd', 'long', 'old')])
    assert '1 of 5 runs have no run.json.' in table
    assert 'Budgets differ (iterations × batch × processes): kd 100 × 8 × 1; long 300 × 8 × 1.' in table
    assert table.splitlines()[4].endswith('| 40.00 | 40.00 | ? |')


@pytest.mark.parametrize(('values', 'expected'), [
    ([1., 2., 6.], '3.00 ± 2.65'), ([7.], '7.00'), ([.1, .3], '0.200 ± 0.141')])
def test_spread_is_the_sample_standard_deviation(values: list[float], expected: str) -> None:
    assert spread(values) == expected


def test_a_gap_of_a_metric_where_less_is_better() -> None:
    assert gap_closed(.25, .30, .20) == pytest.approx(50)


def test_the_tool_writes_between_two_lines(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = work / 'README.md'
    page.write_text('# Title\n<!-- report main -->\nold\n<!-- end of report main -->\nafter\n', encoding='utf-8')
    rows = [f'alone={work / "alone"}', f'kd={work / "kd"}']
    monkeypatch.setattr(sys, 'argv', ['report.py', *rows, '--baseline', 'alone', '--into', str(page), '--name', 'main'])
    for _ in range(2):  # the second time replaces the same table
        runpy.run_path(str(ROOT / 'tools/report.py'), run_name='__main__')
        text = page.read_text(encoding='utf-8')
        assert text.startswith('# Title\n<!-- report main -->\n| row | mIoU of each run | mIoU | gain | time |\n')
        assert text.endswith('mmkd: 0.1.0.\n<!-- end of report main -->\nafter\n')
        assert 'old' not in text
        assert text.count('| kd | ') == 1


def test_refusals(work: Path) -> None:
    kd, alone = read_row(str(work / 'kd')), read_row(str(work / 'alone'))
    with pytest.raises(FileNotFoundError, match='nowhere is no folder. Mend: a work dir of tools/train.py'):
        read_row('x=nowhere')
    (work / 'untested').mkdir()
    with pytest.raises(FileNotFoundError, match='untested holds no result of a test. Mend: tools/test.py CONFIG'):
        read_row(str(work / 'untested'))
    with pytest.raises(KeyError, match="seed_0 has no metric 'mIou'; did you mean 'mIoU'"):
        markdown([kd], ['mIou'])
    with pytest.raises(KeyError, match="baseline='alon' is no row; did you mean 'alone'"):
        markdown([kd, alone], baseline='alon')
    with pytest.raises(ValueError, match='Mend: --baseline LABEL'):
        markdown([kd, alone], teacher='alone')
    with pytest.raises(ValueError, match='two rows have one label'):
        markdown([kd, kd])
    write_run(work / 'same', 42.)
    with pytest.raises(ValueError, match="'same' is as good as 'alone', so there is no gap to close"):
        markdown([alone, read_row(str(work / 'same'))], baseline='alone', teacher='same')
    other = work / 'other/20260101_000000'
    other.mkdir(parents=True)
    (other / '20260101_000000.json').write_text('{"words": 3}')
    with pytest.raises(KeyError, match=r"no usual metric is in every run. Mend: --metric, one of \['words'\]"):
        main_metric([read_row(str(work / 'other'))])
    page = work / 'page.md'
    page.write_text('<!-- end of report a -->\n<!-- report a -->\n', encoding='utf-8')
    with pytest.raises(ValueError, match='has no place for the table. Mend: the lines <!-- report a -->'):
        write_into(page, 'a', 'table\n')
