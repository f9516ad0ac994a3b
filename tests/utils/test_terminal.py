"""What a tool prints and what only its log file holds."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers.runs import ROOT, run_config
from mmengine.logging import MMLogger

from mmkd.utils.terminal import ForUsers, quieten, warnings_to_file

NOISE = (
    'System environment',
    'Config:',
    'Hooks will be executed',
    'SafeCheckpointHook  ',
    'UserWarning',
    'deprecated',
    'HardDiskBackend',
    'The prefix is not set',
    'SyncBatchNorm',
)


def config(folder: Path) -> Path:
    cfg = run_config(folder, max_iters=2, log_level='INFO')
    cfg.pop('experiment_name')
    (folder / 'recipe.py').write_text(cfg.pretty_text)
    return folder / 'recipe.py'


@pytest.mark.slow
def test_a_training_prints_what_its_user_wants_to_read(tmp_path: Path) -> None:
    path, tool = config(tmp_path), str(ROOT / 'tools/train.py')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done, loud = (
        subprocess.run(
            [sys.executable, tool, str(path), '--work-dir', str(tmp_path / name), *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=env,
        )
        for name, flags in (('quiet', []), ('loud', ['--verbose']))
    )
    assert done.returncode == loud.returncode == 0, done.stderr + loud.stderr
    for line in NOISE:
        assert line not in done.stdout + done.stderr, line
        assert line in loud.stdout + loud.stderr, line
    assert 'OneDL' not in done.stdout + loud.stdout
    assert done.stderr == ''
    for line in (
        'effective batch: 2 x 1 = 2',
        'Iter(train) [2/2]',
        'mIoU: ',
        'Saving checkpoint at 2 iterations',
    ):
        assert line in done.stdout, line
    log = next((tmp_path / 'quiet').glob('*/*.log')).read_text()
    for line in NOISE:
        assert line in log, line


def test_python_warnings_reach_the_file_and_not_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shown = warnings.showwarning
    with warnings_to_file(), warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.warn('before there is a run', UserWarning, stacklevel=1)
        logger = MMLogger.get_instance('terminal_1', log_file=str(tmp_path / 'run.log'))
        quieten(logger)
        warnings.warn('while it runs', UserWarning, stacklevel=1)
        logger.info('Hooks will be executed in the following order:\nbefore_run:')
        logger.warning('"FileClient" will be deprecated in future.')
        logger.warning('the teacher is hardly better than chance')
    assert warnings.showwarning is shown, 'the process is as it was'
    assert not logging.getLogger('py.warnings').handlers
    said, log = ''.join(capsys.readouterr()), (tmp_path / 'run.log').read_text()
    assert 'hardly better than chance' in said
    for line in (
        'before there is a run',
        'while it runs',
        'Hooks will be',
        'FileClient',
        'hardly better',
    ):
        assert line in log, line
        assert line in ('hardly better',) or line not in said, line


def test_quietened_twice_is_quietened_once(tmp_path: Path) -> None:
    logger = MMLogger.get_instance('terminal_2')
    quieten(logger)
    quieten(logger)
    assert sum(isinstance(one, ForUsers) for one in logger.handlers[0].filters) == 1
