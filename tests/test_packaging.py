"""What users install: a wheel and an editable install carry ``.mim``, and ``mmkd::…`` paths resolve
from both.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from mmengine.fileio import load
from packaging.requirements import Requirement

from mmkd.version import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    'setup.py',
    'pyproject.toml',
    'MANIFEST.in',
    'LICENSE',
    'model-index.yml',
    'configs',
    'tools',
    'mmkd',
]
IGNORE = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
# run from an unrelated folder: where mmkd lies, and every config reached by its public name,
# directly and as a base
PROBE = """
import gc
import sys
from pathlib import Path
import mmkd
from mmengine.config import Config
from mmengine.hub import get_config

gc.freeze()
mim = Path(mmkd.__file__).parent / '.mim'
names = sorted(str(p.relative_to(mim / 'configs')) for p in (mim / 'configs').rglob('*.py'))
for name in names[::int(sys.argv[1])]:
    Path('heir.py').write_text(f"_base_ = 'mmkd::{name}'\\n")
    if name.count('/') == 1:  # mmengine's own paths have one folder
        direct = Config.fromfile(mim / 'configs' / name).to_dict()
        assert get_config(f'mmkd::{name}').to_dict() == direct, name
        assert Config.fromfile('heir.py').to_dict() == direct, name
print('PROBE', mim, len(names))
"""


def run(*command: str, cwd: Path, pythonpath: Path | None = None) -> str:
    """Return what a command prints; fail with its errors."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    if pythonpath is not None:
        env['PYTHONPATH'] = str(pythonpath)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{" ".join(command)}\n{done.stdout}\n{done.stderr}'
    return done.stdout


def pip(*arguments: str, cwd: Path) -> None:
    run(
        sys.executable,
        '-m',
        'pip',
        *arguments,
        '--quiet',
        '--no-deps',
        '--no-build-isolation',
        cwd=cwd,
    )


def shipped(folder: Path) -> set[str]:
    """Return the shipped files below ``folder``, by path."""
    return {
        str(path.relative_to(folder))
        for part in ('configs', 'tools', 'model-index.yml')
        for path in [folder / part, *(folder / part).rglob('*')]
        if path.is_file() and '__pycache__' not in path.parts
    }


def copy_checkout(folder: Path) -> Path:
    """Copy what a build reads, so that the real checkout stays clean."""
    folder.mkdir()
    for name in SOURCES:
        copy = shutil.copy if (ROOT / name).is_file() else partial(shutil.copytree, ignore=IGNORE)
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds an unpacked wheel, as ``pip install`` leaves it; the wheel is
    built from an sdist.
    """
    folder = tmp_path_factory.mktemp('wheel')
    checkout = copy_checkout(folder / 'checkout')
    run(sys.executable, 'setup.py', '--quiet', 'sdist', cwd=checkout)
    pip('wheel', '--wheel-dir', str(folder), f'dist/mmkd-{__version__}.tar.gz', cwd=checkout)
    with zipfile.ZipFile(folder / f'mmkd-{__version__}-py3-none-any.whl') as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def probe(folder: Path, elsewhere: Path, step: int = 1) -> tuple[Path, int]:
    """Return where mmkd's ``.mim`` was found from another folder, and how many configs it holds.

    Every ``step``-th is read by its public name.
    """
    elsewhere.mkdir()
    line = re.search(
        r'^PROBE (.+) (\d+)$',
        run(sys.executable, '-c', PROBE, str(step), cwd=elsewhere, pythonpath=folder),
        re.M,
    )
    assert line
    return Path(line[1]), int(line[2])


@pytest.mark.slow
def test_wheel_carries_configs_and_tools(site: Path, tmp_path: Path) -> None:
    mim = site / 'mmkd' / '.mim'
    assert shipped(mim) == shipped(ROOT)
    assert (site / 'mmkd' / 'py.typed').is_file()
    assert probe(site, tmp_path / 'elsewhere') == (mim, len(list((ROOT / 'configs').rglob('*.py'))))


@pytest.fixture(scope='module')
def target(site: Path) -> Path:
    """Return the folder that pip has installed the wheel into, with nothing but the wheel."""
    folder = site.parent / 'target'
    wheel = site.parent / f'mmkd-{__version__}-py3-none-any.whl'
    options = ('--no-index', '--no-compile', '--target', str(folder))
    pip('install', *options, str(wheel), cwd=site.parent)
    return folder


@pytest.mark.slow
def test_the_command_works_from_a_wheel_in_any_folder(target: Path, tmp_path: Path) -> None:
    """Help, a check-up, and one iteration of a recipe that the wheel ships."""
    script = (target / 'bin' / 'mmkd').read_text()
    assert 'from mmkd.__main__ import main' in script
    mmkd = partial(run, cwd=tmp_path, pythonpath=target)
    where = "from importlib.util import find_spec; print(find_spec('mmkd').origin)"
    assert mmkd(sys.executable, '-c', where).strip() == str(target / 'mmkd' / '__init__.py')
    said = mmkd(str(target / 'bin' / 'mmkd'), '--version')
    assert said.startswith(f'mmkd {__version__}\ntorch ')
    assert 'fit-vocabulary' in mmkd(sys.executable, '-m', 'mmkd', '--help')
    said = mmkd(
        *(sys.executable, '-m', 'mmkd', 'doctor', 'mmkd::demo/distill.py', '--fake-data'),
        *('--size', '32', '32', '--cfg-options', 'model.teacher.checkpoint=None'),
        'model.teacher.allow_untrained=True',
    )
    assert 'generated images of (32, 32)' in said
    assert 'ready to train (errors: 0' in said
    mmkd(
        *(sys.executable, '-m', 'mmkd', 'train', 'mmkd::demo/student.py', '--cfg-options'),
        *('train_cfg.max_iters=1', 'val_dataloader=None', 'val_cfg=None', 'val_evaluator=None'),
        *('param_scheduler=None', 'train_dataloader.batch_size=2'),
        *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    )
    work = tmp_path / 'work_dirs' / 'student'
    assert (work / 'last_checkpoint').read_text().endswith('iter_1.pth')
    record = json.loads((work / 'run.json').read_text())
    assert record['iterations'] == 1


@pytest.mark.slow
def test_editable_install_links_to_the_checkout(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / 'checkout')
    pip(
        'install',
        '--ignore-installed',
        '--prefix',
        str(tmp_path / 'prefix'),
        '--editable',
        '.',
        cwd=checkout,
    )
    mim = checkout / 'mmkd' / '.mim'
    assert sorted(path.name for path in mim.iterdir()) == ['configs', 'model-index.yml', 'tools']
    assert (mim / 'configs').resolve() == checkout / 'configs'
    pip(
        'wheel', '--wheel-dir', str(tmp_path), '.', cwd=checkout
    )  # links in the sources do not reach a wheel
    with zipfile.ZipFile(tmp_path / f'mmkd-{__version__}-py3-none-any.whl') as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        assert 'mmkd/.mim/model-index.yml' in archive.namelist()
    added = checkout / 'configs' / 'structured_kd' / 'added_later.py'
    added.write_text('a = 1\n')
    found, count = probe(checkout, tmp_path / 'elsewhere', step=10)
    assert (found, count) == (mim, len(list((ROOT / 'configs').rglob('*.py'))) + 1)


def test_model_index_and_metafiles_name_what_exists() -> None:
    listed = []
    for path in load(ROOT / 'model-index.yml')['Import']:
        metafile = load(ROOT / path)
        collections = {collection['Name'] for collection in metafile['Collections']}
        for model in metafile['Models']:
            assert model['In Collection'] in collections
            assert (ROOT / model['Config']).is_file(), (
                f'{path} lists {model["Config"]}, which does not exist'
            )
            assert model['Name'] == Path(model['Config']).stem
            listed.append(model['Config'])
    existing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / 'configs').glob('[!_]*/*.py')
        if path.parent.name != 'demo'
    ]  # the demo is no paper's recipe
    assert sorted(listed) == sorted(existing)


@pytest.mark.slow
def test_pins_lie_within_the_ranges_of_the_wheel(site: Path) -> None:
    pins = {}
    for line in (ROOT / 'requirements' / 'constraints.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            pin = Requirement(line)
            (version,) = pin.specifier
            assert version.operator == '==', f'{line} is no exact pin'
            pins[pin.name.lower()] = version.version
    requires = map(Requirement, Distribution.at(site / f'mmkd-{__version__}.dist-info').requires)
    bounded = {
        requirement.name: requirement.specifier
        for requirement in requires
        if requirement.specifier and 'openmmlab' not in str(requirement.marker)
    }
    assert '2.5.1' not in bounded['torch'], 'it loads no checkpoint safely'
    assert bounded.keys() >= {
        'torch',
        'numpy',
        'onedl-mmengine',
        'onedl-mmcv',
        'onedl-mmsegmentation',
    }
    assert {
        name: pins[name] for name, allowed in bounded.items() if pins[name] not in allowed
    } == {}


@pytest.mark.slow
def test_no_family_is_laid_over_the_other(site: Path) -> None:
    """Who has upstream and installs mmkd gets no fork, and the reverse; each has its extra."""
    requires = map(Requirement, Distribution.at(site / f'mmkd-{__version__}.dist-info').requires)
    extras: dict[str, set[str]] = {}
    for requirement in requires:
        found = re.search(r'extra == .(\w+)', str(requirement.marker))
        extras.setdefault(found[1] if found else '', set()).add(requirement.name)
    family = {'mmengine', 'mmcv', 'mmsegmentation'}
    onedl = {f'onedl-{name}' for name in family}
    assert not extras[''] & (family | onedl)
    assert extras['onedl'] == onedl
    assert extras['openmmlab'] >= {'mmengine', 'mmsegmentation', 'ftfy', 'regex', 'setuptools'}
    assert not extras['openmmlab'] & onedl
    for name in ('text', 'imagenet', 'test', 'docs', 'dev'):
        assert not extras[name] & (family | onedl), f'{name} serves both'
    assert extras['det'] >= onedl
