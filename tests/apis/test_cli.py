"""How commands end: a mistake as one paragraph, a bug with its traceback, Ctrl-C without."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import as_main, end_of, free_port, start
from helpers.runs import ROOT, run_config
from mmengine.logging import MMLogger

from mmkd.apis import cli
from mmkd.apis.launch import run_parser

ENV = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py'))


def end(error: BaseException, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """Run a tool that raises; return its exit code."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main, debug='--debug' in flags)
    return stopped.value.code


def test_a_mistake_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    error = KeyError("class `Distiller` in mmkd/distiller/distiller.py: no tap 'x'. Mend: 'y'")
    assert end(error, monkeypatch) == 1
    assert capsys.readouterr().err == "error: no tap 'x'. Mend: 'y'\n"


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert end(ValueError('a must be 1'), monkeypatch, '--debug') == 1
    said = capsys.readouterr().err
    assert said.startswith('Traceback')
    assert said.endswith('ValueError: a must be 1\n')


def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert end(IndexError('list index out of range'), monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith('Traceback')
    assert 'raise error' in said


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert end(KeyboardInterrupt(), monkeypatch) == 130
    assert ''.join(capsys.readouterr()) == ''


def test_what_a_tool_says_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(SystemExit('needs a checkpoint'), monkeypatch) == 'needs a checkpoint'


def test_a_rank_says_which_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    assert end(ValueError('a must be 1'), monkeypatch) == 1
    assert capsys.readouterr().err == 'rank 1: error: a must be 1\n'


def test_the_log_file_holds_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    MMLogger.get_instance('cli_1', log_file=str(tmp_path / 'run.log'))
    assert end(ValueError('a must be 1'), monkeypatch) == 1
    log = (tmp_path / 'run.log').read_text()
    assert 'Traceback' in log
    assert 'ValueError: a must be 1' in log
    assert 'Traceback' not in ''.join(capsys.readouterr())


@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_has_the_common_flags(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert '--verbose' in said
    assert '--debug' in said


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('train.py', ['nowhere.py']),
        ('test.py', ['nowhere.py', 'x.pth']),
        ('benchmark.py', ['nowhere.py']),
        ('doctor.py', ['nowhere.py']),
        ('robustness.py', ['nowhere.py', 'x.pth']),
        ('train_ensemble.py', ['nowhere.py']),
        ('fit_vocabulary.py', ['nowhere.py', 'x.pth']),
        ('export_student.py', ['nowhere.py', 'x.pth']),
        ('report.py', ['nowhere.py']),
    ],
)
def test_a_file_that_is_not_there(
    tool: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every tool ends by the same door."""
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert stopped.value.code == 1
    said = ''.join(capsys.readouterr())
    assert 'nowhere.py' in said
    assert 'Traceback' not in said


def config(folder: Path) -> Path:
    cfg = run_config(folder, max_iters=100000, interval=100000, val_interval=100000)
    cfg.pop('experiment_name')
    (folder / 'recipe.py').write_text(cfg.pretty_text)
    return folder / 'recipe.py'


@pytest.mark.slow
def test_ctrl_c_while_training(tmp_path: Path) -> None:
    said = tmp_path / 'said'
    child = start(as_main(ROOT / 'tools/train.py', config(tmp_path), cwd=tmp_path), said)
    while not any((tmp_path / 'run').glob('*/vis_data/scalars.json')):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), said.read_text()
        time.sleep(0.1)
    os.kill(child, signal.SIGINT)
    assert end_of(child) == 130
    assert 'Traceback' not in said.read_text()


@pytest.mark.slow
def test_the_message_of_a_faulty_rank_is_seen_under_torchrun(tmp_path: Path) -> None:
    path = config(tmp_path)
    for file in (tmp_path / 'data/ann').iterdir():
        file.write_bytes(b'no png')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc_per_node=2',
            '--master_addr=127.0.0.1',
            f'--master_port={free_port()}',
            '-m',
            'mmkd',
            'train',
            str(path),
            '--launcher',
            'pytorch',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=ENV,
        timeout=200,
    )
    assert done.returncode == 1
    assert (
        '.png cannot be read by LoadAnnotations: cannot identify image file. Mend: replace the file'
        in done.stderr
    )
    assert 'rank 0: error: ' in done.stderr or 'rank 1: error: ' in done.stderr


@pytest.mark.bad_input
def test_options_without_a_value(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        run_parser('a tool').parse_args(['x.py', '--cfg-options', 'a=1', 'train_cfg'])
    assert (
        "--cfg-options takes key=value …, got 'train_cfg'. Mend: train_cfg=VALUE"
        in capsys.readouterr().err
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'value', ['[dict(a=1,b=2),dict(c=3)]', 'dict(a=1)', "[1,{'a':1}]", '[1,2', '(1,(2,)']
)
def test_options_that_mmengine_does_not_read(value: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        run_parser('a tool').parse_args(['x.py', '--cfg-options', 'a=1', f'hooks={value}'])
    told = capsys.readouterr().err
    assert '--cfg-options hooks: a value is a number, a word, or a list of values' in told
    assert f'got {value!r}. Mend: ' in told
    assert 'hooks.0.KEY=VALUE' in told


def test_options_of_lists_and_words() -> None:
    given = ['a=[1,[2,x]]', 'b=(0.9,0.99)', 'c=x{1}', 'd=']
    args = run_parser('a tool').parse_args(['x.py', '--cfg-options', *given])
    assert args.cfg_options == dict(a=[1, [2, 'x']], b=(0.9, 0.99), c='x{1}', d='')
