"""What was written with mmkd 0.1 goes on: runs, checkpoints, students, names, configs.

``fixtures/make_work_dir.py`` made the work dirs and the list of names, with mmkd 0.1.0.
"""

import inspect
import json
import re
import tarfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import mmengine.registry
import mmseg.registry
import numpy as np
import pytest
import torch
from fixtures.make_work_dir import (
    BASES,
    END,
    FOLDER,
    NAMES,
    PACKAGES,
    RUNS,
    SAVED,
    base,
    build,
    files,
    machine,
    plain,
    state_of,
    write_data,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model

import mmkd
from mmkd import registry
from mmkd.apis.length import follow_length

ROOT = Path(__file__).resolve().parents[1]
KEPT = json.loads(NAMES.read_text(encoding='utf-8'))
NEEDED = dict(  # what these refuse to be without
    Distiller={key: value for key, value in RUNS['peers']()['model'].items() if key != 'type'},
    ScheduleHook=dict(
        schedules=[dict(target='a.weight', type='linear', start=0.0, end=1.0, length=1)]
    ),
)
# Where another processor or torch rounds otherwise, values may differ by so much of the largest one
# of their tensor, and by so much anyway; other instructions of one processor gave 3e-5 and 3e-8.
CLOSE, NOTHING = 1e-4, 1e-6
ROUNDS_OTHERWISE = ('levels', 'peers')  # their losses hold fewer maps at once since 0.3
PIXELS = 0.01  # of a metric: a pixel or two may fall to another class there


class Resumed(NamedTuple):
    """A run of 0.1 that went on: its work dir, what was saved, what the end was then and now."""

    folder: Path
    saved: dict[str, Any]
    expected: dict[str, Any]
    start: dict[str, Any]
    end: dict[str, Any]
    exact: bool


class Look(Hook):
    """Notes what was loaded, once all other hooks are ready to train."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        self.state = state_of(runner)


@pytest.fixture(scope='module', params=list(RUNS))
def resumed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Resumed]:
    """Go on with a run of 0.1, from the config that lies in its work dir."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    write_data(folder / 'data')
    with tarfile.open(FOLDER / f'{name}.tar.xz') as archive:
        archive.extractall(folder, filter='data')
    saved = torch.load(folder / name / f'iter_{SAVED}.pth', weights_only=False)
    expected = torch.load(folder / name / 'expected.pth', weights_only=True)
    (folder / name / 'expected.pth').unlink()
    with pytest.MonkeyPatch.context() as patch:
        # formatting the dumped config takes longer than the training
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, True))
        patch.chdir(folder)
        runner = build(f'kept_{name}', name, f'{name}/{name}.py', resume=True)
        look = Look()
        runner.register_hook(look)
        runner.train()
        yield Resumed(
            folder / name,
            saved,
            expected,
            look.state,
            state_of(runner),
            expected['machine'] == machine() and name not in ROUNDS_OTHERWISE,
        )


def differences(found: Any, wanted: Any, close: float = 0.0, where: str = '') -> list[str]:
    """Return where two nests of containers, numbers and tensors differ.

    Args:
        found: One of them.
        wanted: The other.
        close: By how much numbers may differ, as a share of the largest of their tensor (or by
            ``NOTHING``); 0: not at all.
        where: The way to the values, for what is returned.
    """
    if isinstance(wanted, dict | list) and isinstance(found, type(wanted)):
        keys = list(wanted) if isinstance(wanted, dict) else range(len(wanted))
        if list(found if isinstance(wanted, dict) else range(len(found))) != list(keys):
            return [f'{where}: {found!r:.300} instead of {wanted!r:.300}']
        several = [differences(found[key], wanted[key], close, f'{where}/{key}') for key in keys]
        return sum(several, [])
    if isinstance(wanted, float) and isinstance(found, float):
        found, wanted = torch.tensor(found).double(), torch.tensor(wanted).double()
    if not isinstance(wanted, torch.Tensor):
        return [] if found == wanted else [f'{where}: {found!r} instead of {wanted!r}']
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return [f'{where}: {found.shape} {found.dtype}, not {wanted.shape} {wanted.dtype}']
    if torch.equal(found, wanted):
        return []
    error = (found.double() - wanted.double()).abs().max().item()
    allowed = close and max(close * wanted.double().abs().max().item(), NOTHING)
    return [] if error <= allowed else [f'{where}: differs by {error:.2g}, allowed {allowed:.2g}']


def without_swap(saved: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the weights of a checkpoint and the averages of them, which EMAHook exchanges."""
    weights, averages = dict(saved['state_dict']), dict(saved.get('ema_state_dict') or {})
    for key in [key for key in averages if key.startswith('module.')]:
        own = key.removeprefix('module.')
        weights[own], averages[key] = averages[key], weights[own]
    return weights, [averages] if averages else []


def test_what_was_saved_is_loaded(resumed: Resumed) -> None:
    """Everything, and bit for bit on any machine, before the first step."""
    saved, start = resumed.saved, resumed.start
    weights, averages = without_swap(saved)
    assert list(start['state_dict']) == list(resumed.expected['state_dict'])
    assert not differences(start['state_dict'], plain(weights))
    assert not differences(start['averages'], plain(averages))
    assert not differences(start['optimizer'], plain(saved['optimizer']))
    schedulers = saved['param_schedulers']
    schedulers = schedulers if isinstance(schedulers, dict) else {'': schedulers}
    assert not differences(start['schedulers'], plain(schedulers))
    levels = [saved['mmkd_levels']] if 'mmkd_levels' in saved else []
    assert not differences(start['levels'], plain(levels))
    assert start['iteration'] == saved['meta']['iter'] == SAVED
    logged = saved['message_hub']['log_scalars']
    for key in [key for key in logged if key.startswith('train/') and 'time' not in key]:
        assert start['scalars'][key] == logged[key].data[0].tolist(), key


def test_the_end_is_what_it_was(resumed: Resumed) -> None:
    """Bit for bit on a machine that rounds alike, else closely: weights, optimizers, losses."""
    expected, end = resumed.expected, resumed.end
    close = 0.0 if resumed.exact else CLOSE
    for part in ('iteration', 'state_dict', 'averages', 'optimizer', 'schedulers', 'levels'):
        assert not differences(end[part], expected[part], close), part
    assert end['iteration'] == END
    assert list(end['scalars']) == list(expected['scalars'])
    for key, values in expected['scalars'].items():
        loose = close and (PIXELS if key.startswith('val/') else close)
        assert not differences(end['scalars'][key], values, loose), key
    assert not differences(end['best'], expected['best'], close and PIXELS)
    moved = [
        name
        for name, value in expected['state_dict'].items()
        if not torch.equal(value, without_swap(resumed.saved)[0][name])
    ]
    assert len(moved) > 20, 'a run that stands still proves nothing'


def test_the_work_dir_is_what_it_was(resumed: Resumed) -> None:
    """The same checkpoints and students stay, and the record counts what was spent before."""
    assert files(resumed.folder) == resumed.expected['files']
    record = json.loads((resumed.folder / 'run.json').read_text(encoding='utf-8'))
    wanted, varies = (
        resumed.expected['record'],
        ('seconds', 'cpu_seconds', 'torch', 'mmkd', 'device'),
    )
    added = {key: record.pop(key) for key in ('log', 'ended')}  # since 0.3
    assert added['log'] <= added['ended']
    assert list(record) == list(wanted)
    assert {**record, **{key: wanted[key] for key in varies}} == wanted
    before = resumed.saved['mmkd_run_record']
    assert all(record[key] >= round(before[key], 1) > 0 for key in ('seconds', 'cpu_seconds'))


def test_an_exported_student_loads(resumed: Resumed) -> None:
    """By mmseg alone, from the config beside it; what is exported now has the same keys."""
    image = np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)
    exported = sorted((resumed.folder / 'student').rglob('config.py'))
    assert len(exported) == (2 if resumed.folder.name == 'peers' else 1)
    whole = resumed.folder.parent
    # resumed, the run has replaced its student by later ones
    with tarfile.open(FOLDER / f'{resumed.folder.name}.tar.xz') as archive:
        archive.extractall(whole / 'old', filter='data')
    for config in exported:
        name = config.parent.name
        old = whole / 'old' / config.parent.relative_to(whole)
        model = init_model(str(old / 'config.py'), str(old / f'iter_{SAVED}.pth'), device='cpu')
        prefix = f'students.{name}.'
        for key, value in model.state_dict().items():
            assert torch.equal(value, resumed.saved['state_dict'][prefix + key]), key
        assert inference_model(model, image).seg_logits.data.isfinite().all()
        now = init_model(str(config), str(config.parent / f'iter_{END}.pth'), device='cpu')
        assert list(now.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize('kind', KEPT['registered'])
def test_registered_names(kind: str) -> None:
    """mmengine's registries and mmseg's know each as ``mmkd.<name>``, and build it."""
    for name in KEPT['registered'][kind]:
        found = getattr(registry, kind).get(name)
        assert found is not None, name
        for library in (mmengine.registry, mmseg.registry):
            theirs = getattr(library, kind)
            assert theirs.get(f'mmkd.{name}') is found, (library.__name__, name)
            if kind in ('MODELS', 'METRICS', 'TRANSFORMS', 'HOOKS') and is_bare(found):
                built = theirs.build(dict(type=f'mmkd.{name}', **NEEDED.get(name, {})))
                assert type(built) is found


def is_bare(kind: type) -> bool:
    """Return whether a class can be built without arguments."""
    parameters = inspect.signature(kind).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in variable for p in parameters)


@pytest.mark.parametrize('path', PACKAGES)
def test_imports(path: str) -> None:
    """What users import is there, at its path or by the alias of its package."""
    module = import_module(path)
    missing = [name for name in KEPT['packages'][path] if not hasattr(module, name)]
    assert not missing
    if path in ('mmkd', 'mmkd.version'):
        assert module.__version__ == mmkd.__version__


def test_recipes_tools_and_targets() -> None:
    """Every recipe goes by its name, whatever its folder; commands go by theirs."""
    recipes = {path.stem for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    assert not {Path(path).stem for path in KEPT['recipes']} - recipes
    assert not set(KEPT['tools']) - {path.name for path in (ROOT / 'tools').glob('*.py')}
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert not set(KEPT['targets']) - set(re.findall(r'^([a-z-]+):', makefile, re.M))


ADDED = dict(type='mmkd.LengthCheckHook'), dict(type='mmkd.UnlabelledHook')


@pytest.mark.parametrize('name', BASES)
def test_bases_of_users_configs(name: str, tmp_path: Path) -> None:
    """``mmkd::_base_/…`` of 0.1 go on to be what a user's own config inherits."""
    heir = tmp_path / 'heir.py'
    heir.write_text(f'_base_ = {str(ROOT / "configs/_base_" / name)!r}\n')
    now = Config(base(heir))
    if name.startswith('schedule_'):
        now = follow_length(now)  # a length is said once; the tools fill in the rest
    if name.startswith('runtime'):
        now.custom_hooks = [hook for hook in now.custom_hooks if hook not in ADDED]
    if name == 'runtime_cls.py':
        assert now.default_hooks.checkpoint.interval == 4000, (
            'as runtime.py; or the length, if less'
        )
        now.default_hooks.checkpoint.interval = 1760
    assert now.to_dict() == KEPT['bases'][name]
