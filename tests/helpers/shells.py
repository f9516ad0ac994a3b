"""The tools in this process, and what their tests need."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, run_config
from mmengine.config import Config


def here(tool: str, *arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a tool in this process, which has imported everything already."""
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


def config_file(folder: Path, **changes: Any) -> Path:
    """Write a config as users have them; its work dir is left open."""
    cfg = run_config(folder, **changes).to_dict()
    own = {
        key: value
        for key, value in cfg.items()
        if key not in ('work_dir', 'experiment_name', 'log_level')
    }
    path = folder / 'recipe.py'
    path.write_text(Config(own).pretty_text)
    return path


def refusal(
    tool: str, *arguments: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> str:
    """Run a tool that ends with exit code 1; return the last line of what it printed."""
    with pytest.raises(SystemExit) as stopped:
        here(tool, *arguments, monkeypatch=monkeypatch)
    assert stopped.value.code == 1
    return capfd.readouterr().err.splitlines()[-1]


def names(run: str) -> list[str]:
    """Return options that keep runs of one process apart: mmengine holds loggers and visualizers by
    name.
    """
    return ['--cfg-options', f'experiment_name={run}', f'visualizer.name={run}']


def mious(text: str) -> list[float]:
    return [float(value) for value in re.findall(r'\bmIoU: (\d+\.\d+)', text)]
