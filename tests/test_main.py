"""The command mmkd: what its help says and costs, what it refuses, and how it ends."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
from helpers.processes import end_of, program, start
from helpers.runs import ROOT
from mmengine.logging import MMLogger
from termcolor import can_colorize

import mmkd
from mmkd import __main__ as door
from mmkd.apis.commands import (
    FORMER,
    GROUPS,
    PURPOSES,
    benchmark,
    completion,
    fit_vocabulary,
    help_of,
    module_of,
    parser_of,
    robustness,
)
from mmkd.apis.commands import demo as demo_command
from mmkd.apis.doctor import Report
from mmkd.datasets.transforms.corrupt import CORRUPTIONS
from mmkd.losses.quest.fitting import MAX_VECTORS
from mmkd.utils.command_line import starts_command
from mmkd.utils.progress import track
from mmkd.utils.shipped import checkout, shipped
from mmkd.utils.tables import make_console

HEAVY = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'cv2')
HELPS = [[], ['--help'], ['--version'], ['trian'], *([name, '--help'] for name in PURPOSES)]


def fresh(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run in an interpreter of its own, which knows mmkd by its path alone."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


def imported(log: str) -> set[str]:
    """Return the packages in the log of ``python -X importtime``."""
    names = re.findall(r'^import time:\s+\d+ \|\s+\d+ \|\s+([\w.]+)$', log, re.MULTILINE)
    return {name.split('.')[0] for name in names}


@pytest.fixture(scope='module')
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the console script as pip writes it."""
    path = tmp_path_factory.mktemp('bin') / 'mmkd'
    path.write_text(
        'import sys\nfrom mmkd.__main__ import main\n'
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    return path


@pytest.mark.parametrize('arguments', HELPS, ids=' '.join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = fresh(sys.executable, '-X', 'importtime', '-m', 'mmkd', *arguments)
    assert done.returncode == (0 if arguments and arguments != ['trian'] else 2)
    found = imported(done.stderr)
    assert 'argparse' in found
    assert not found & {*HEAVY}


def test_the_script_imports_nothing_heavy_for_help(script: Path) -> None:
    done = fresh(sys.executable, '-X', 'importtime', str(script), 'train', '--help')
    assert done.returncode == 0
    assert 'usage: mmkd train' in done.stdout
    assert not imported(done.stderr) & {*HEAVY}


@pytest.mark.slow
def test_work_finds_every_component(script: Path, tmp_path: Path) -> None:
    """A module of the user's, which the config imports, takes names from mmkd, old ones too."""
    (tmp_path / 'mine.py').write_text(
        'import mmkd\nfrom mmkd import Distiller, export_student\n'
        'from mmkd.hooks import ScheduleHook\n'
        "from mmengine.registry import MODELS\nassert MODELS.get('mmkd.Distiller') is Distiller\n"
        "print('FOUND', mmkd.losses.__name__, mmkd.doctor.__name__)\n"
    )
    (tmp_path / 'c.py').write_text("custom_imports = dict(imports=['mine'])\n")
    path = f'{ROOT}{os.pathsep}{tmp_path}'
    done = fresh(sys.executable, str(script), 'doctor', str(tmp_path / 'c.py'), PYTHONPATH=path)
    assert 'FOUND mmkd.losses mmkd.doctor' in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1


def test_python_m_of_a_module_below_is_no_command() -> None:
    assert not starts_command(['-m', 'x'], ['python', '-m', 'mmkd.apis.report', 'x'])
    assert not starts_command(['mmkd.py'], ['python', 'mmkd.py'])
    assert not starts_command([], ['python'])
    assert not starts_command(['-m', 'mmkd', 'train'], ['python', '-c', 'mmkd'])


@pytest.mark.parametrize('argument', ['--help', '-h', 'help'])
def test_help_says_what_each_command_is_for(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert door.main([argument]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert [line for line in out.splitlines() if line.endswith(':')] == [f'{g}:' for g in GROUPS]
    listed = dict(re.findall(r'^  ([\w-]+) +(.+)$', out, re.MULTILINE))
    assert listed == PURPOSES
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize('name', PURPOSES)
def test_a_module_says_what_the_table_says(name: str) -> None:
    lines = module_of(name).__doc__.splitlines()
    assert lines[0] == PURPOSES[name]
    assert f'mmkd {name}' in help_of(module_of(name))['epilog']
    assert max(map(len, lines)) <= 88


def test_every_module_is_in_the_table() -> None:
    folder = Path(completion.__file__).parent
    files = {path.stem.replace('_', '-') for path in folder.glob('[!_]*.py')}
    assert files == PURPOSES.keys()


@pytest.mark.parametrize('name', [name for name in PURPOSES if name != 'completion'])
def test_the_example_of_a_command_is_read(name: str) -> None:
    example = help_of(module_of(name))['epilog'].splitlines()[-1].split()
    assert example[:2] == ['mmkd', name]
    assert parser_of(name).read(example[2:]).debug is False


def test_every_tool_is_a_door_of_a_command() -> None:
    for path in (ROOT / 'tools').glob('*.py'):
        lines = [line for line in path.read_text().splitlines() if line]
        name = path.stem.replace('_', '-')
        assert lines[0] == f'"""{PURPOSES[FORMER.get(name, name)]}"""'
        assert lines[-1] == f'    tool({FORMER.get(name, name)!r})'
        assert len(lines) == 4


def test_choices_are_those_of_the_parts() -> None:
    """They are written out where they are parsed, since the parts import torch."""
    from mmkd.apis.benchmark.pair import AMP, LAYOUTS
    from mmkd.distiller.members.member import PRECISIONS

    assert benchmark.PRECISIONS == (*AMP,) == (*PRECISIONS,)
    assert benchmark.LAYOUTS == LAYOUTS
    assert (*CORRUPTIONS,) == robustness.CORRUPTIONS
    assert fit_vocabulary.MAX_VECTORS == MAX_VECTORS
    assert demo_command.VALIDATIONS == 6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['trian'], "unknown command 'trian'; did you mean 'train'? (mmkd --help)"),
        (['fit_vocabulari'], "unknown command 'fit_vocabulari'; did you mean 'fit-vocabulary'?"),
        (['--versoin'], "unknown option '--versoin'; did you mean '--version'?"),
        (['train', 'x.py', '--wrok-dir', 'y'], "unknown option '--wrok-dir'; did you mean '--work"),
        (['train', 'x.py', '-amp'], "unknown option '-amp'; did you mean '--amp'?"),
        (['test', 'x.py', '--launcher', 'pytroch'], "'pytroch'; did you mean 'pytorch'? (one of:"),
        (['benchmark', 'x', '--amp=fp23'], "argument --amp: unknown choice 'fp23'; did you mean"),
        (['robustness', 'x', 'y', '--corruptions', 'jpg_compression'], "mean 'jpeg_compression'?"),
        (['completion', 'bsh'], "unknown choice 'bsh'; did you mean 'bash'?"),
        (['train'], 'the following arguments are required: config'),
        (['doctor', 'x', '--size', '3', '0'], "must be a whole number of at least 1, got '0'"),
        (['report', 'x', '--name', 'y'], '--into FILE and --name NAME come together'),
        (['report', 'x', '--into', 'y'], '--into FILE and --name NAME come together'),
        (['train', 'x', '--resume', '--overwrite'], '--resume goes on with the run that'),
        (['train-ensemble', 'x', '--seeds', '-1'], 'different whole numbers of at least 0, got'),
    ],
)
@pytest.mark.bad_input
def test_a_wrong_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = door.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_nothing_asked_for_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert all(name in err for name in PURPOSES)


def test_versions_are_of_the_installed_stack(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(['--version']) == 0
    lines = dict(line.split(' ', 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ['mmkd', 'torch', 'mmengine', 'mmcv', 'mmsegmentation']
    assert lines['mmkd'] == mmkd.__version__
    assert lines['torch'] == metadata.version('torch')


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if 'mmcv' in name:
            raise metadata.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(metadata, 'version', missing)
    assert door.versions()[2:4] == ['mmengine onedl-mmengine', 'mmcv is not installed']


def test_help_is_no_mistake(tmp_path: Path) -> None:
    code, said = program(Path(door.__file__), '--help', cwd=tmp_path)
    assert code == 0
    assert 'usage: mmkd COMMAND' in said


@pytest.mark.parametrize('name', ['export', 'export-student', 'export_student'])
def test_a_command_runs_from_any_folder(name: str, tmp_path: Path) -> None:
    code, said = program(Path(door.__file__), name, 'none.pth', 'out', cwd=tmp_path)
    assert code == 1
    assert 'checkpoint none.pth does not exist' in said
    assert 'Traceback' not in said


def test_ctrl_c_while_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(door, 'import_module', interrupted)
    assert door.main(['report', 'x']) == 130


@pytest.mark.bad_input
def test_a_stack_of_two_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> None:
        raise ImportError('mmcv and onedl-mmcv are both installed. Mend: pip uninstall')

    monkeypatch.setattr(door, 'import_module', refused)
    with pytest.raises(SystemExit, match='^error: mmcv and onedl-mmcv are both .* Mend: pip un'):
        door.main(['report', 'x'])


# ---------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ('words', 'offered'),
    [
        (['mmkd', 'tra'], ['train', 'train-ensemble']),
        (['mmkd', 'train', 'x.py', '--au'], ['--auto-scale-lr']),
        (['mmkd', 'benchmark', '--amp', 'f'], ['fp32', 'fp16']),
        (['mmkd', 'test', 'rec'], ['recipe.py']),
        (['mmkd', 'train', '--work-dir', 'wor'], ['work_dirs']),
        (['mmkd', 'report', '--html', 'rec'], ['recipe.py']),
        (['mmkd', 'store', '--out', ''], ['work_dirs']),
    ],
)
def test_bash_completes(
    words: list[str], offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert door.main(['completion', 'bash']) == 0
    script = capsys.readouterr().out
    (tmp_path / 'recipe.py').touch()
    (tmp_path / 'work_dirs').mkdir()
    listed = ' '.join(words)
    ask = (
        f'COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _shtab_mmkd; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ['bash', '-c', f'{script}\n{ask}'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_scripts_for_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(['completion', shell]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in PURPOSES)
    assert ('--auto-scale-lr' if shell == 'zsh' else 'n/benchmark/f/') in said


def test_a_pipe_that_is_closed_ends_a_script_quietly() -> None:
    command = f'{sys.executable} -m mmkd completion bash | true'
    done = subprocess.run(
        ['bash', '-c', f'{command}; exit ${{PIPESTATUS[0]}}'], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '')


# ---------------------------------------------------------------- terminals and pipes

COLOUR = re.compile(r'\x1b\[(?:\d;)*3[0-7]')


def show() -> None:
    """Print what commands print: a report, a line of the log, a bar."""
    can_colorize.cache_clear()  # of the parent, which had no terminal
    os.environ['TERM'] = 'xterm'
    Report(errors=['red']).print(make_console())
    MMLogger.get_instance(f'shown_{os.getpid()}').warning('logged')
    assert list(track([1, 2], 2, 'a bar')) == [1, 2]


def on_a_terminal(**environment: str) -> str:
    """Return what a terminal gets to see of :func:`show`."""
    child, terminal = pty.fork()
    if not child:
        os.environ.pop('NO_COLOR', None)
        os.environ.update(environment)
        end_of_fork(show)
    said = b''
    try:
        while part := os.read(terminal, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert end_of(child) == 0, said.decode()
    return said.decode()


def end_of_fork(work: Callable[[], None]) -> NoReturn:
    """Work in a fork that writes to its own terminal, and leave pytest out of it."""
    code = 1
    try:
        sys.stdout, sys.stderr = os.fdopen(1, 'w', 1), os.fdopen(2, 'w', 1)
        work()
        code = 0
    finally:
        os._exit(code)


def test_colours_and_bars_are_for_terminals(tmp_path: Path) -> None:
    shown = on_a_terminal()
    assert COLOUR.search(shown.partition('ERROR')[0])
    assert COLOUR.search(shown.partition('train as meant')[2].partition('logged')[0])
    assert 'a bar' in shown
    plain = on_a_terminal(NO_COLOR='1')
    assert 'logged' in plain
    assert not COLOUR.search(plain)
    assert end_of(start(show, tmp_path / 'said')) == 0
    piped = (tmp_path / 'said').read_text()
    assert 'logged' in piped
    assert '\x1b' not in piped
    assert 'a bar' not in piped


# ---------------------------------------------------------------- what is shipped


def test_a_wheel_is_no_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checkout() == ROOT
    assert (shipped('configs/demo') / 'teacher.py').is_file()
    monkeypatch.setattr('mmkd.utils.shipped.PACKAGE', tmp_path / 'mmkd')
    with pytest.raises(FileNotFoundError, match='which is no checkout. Mend: clone'):
        checkout()
    (tmp_path / 'mmkd/.mim/configs/demo').mkdir(parents=True)
    assert shipped('configs/demo') == tmp_path / 'mmkd/.mim/configs/demo'
