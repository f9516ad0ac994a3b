"""What the documents show is run: code blocks, the ten-line config, the names of files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]


def _blocks(document: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (ROOT / document).read_text(), re.DOTALL)


def test_the_loss_of_the_guide_passes_its_own_test(tmp_path):
    loss, test, config = _blocks('docs/add-a-loss.md')
    (tmp_path / 'channel_wise.py').write_text(loss)
    (tmp_path / 'test_channel_wise.py').write_text(test)
    (tmp_path / 'config.py').write_text(config)
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '--doctest-modules',
        '--rootdir',
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={'PYTHONPATH': f'{ROOT}:{tmp_path}', 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert '4 passed' in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize('document', ['README.md', 'docs/five-minutes.md'])
def test_the_config_of_the_document_parses(document, tmp_path):
    block = next(b for b in _blocks(document) if "type='mmkd.Distiller'" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 14
    (tmp_path / 'config.py').write_text(block)
    config = Config.fromfile(tmp_path / 'config.py')
    assert config.model.type == 'mmkd.Distiller'
    assert config.optim_wrapper.constructor == 'mmkd.PhaseOptimWrapperConstructor'
    assert config.model.objectives.pixel.weight == 10.0


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda d: d.name)
def test_files_that_documents_name_exist(document):
    named = re.findall(
        r'`((?:mmkd|tools|configs|docs|tests|benchmarks|examples)/[\w./-]+)`', document.read_text()
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
