"""The mends of the stack: external config paths resolve without an installer, mixed distributions
are refused.
"""

import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import mmengine.config.config
import mmengine.utils.package_utils
import mmseg
import pytest
from helpers.families import only_onedl
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config, get_model
from mmengine.registry import METRICS, DefaultScope
from yapf.yapflib import yapf_api

from mmkd import compat
from mmkd.utils import libraries

ROOT = Path(__file__).resolve().parents[1]
PSPNET = 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'


class InstallerCalledError(AssertionError):
    """What the stand-in for pip raises."""


@pytest.fixture(autouse=True)
def no_installer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str]) -> NoReturn:
        raise InstallerCalledError(' '.join(command))

    monkeypatch.setattr(mmengine.utils.package_utils, 'call_command', refuse)


def direct() -> Config:
    return Config.fromfile(Path(mmseg.__file__).parent / '.mim' / 'configs' / PSPNET)


# ------------------------------------------------------------------------------------------------
# mmseg:: paths
def test_get_config_finds_mmseg_without_installing() -> None:
    cfg = get_config(f'mmseg::{PSPNET}')
    assert cfg.model.backbone.depth == 18
    assert cfg.model.decode_head.channels == 128
    assert cfg.to_dict() == direct().to_dict()


@only_onedl('upstream is what would be installed')
def test_the_stack_as_it_comes_would_install_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    with pytest.raises(InstallerCalledError, match='pip install mmsegmentation'):
        get_config(f'mmseg::{PSPNET}')


def test_base_from_mmseg_resolves_in_its_scope(tmp_path: Path) -> None:
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = 'mmseg::{PSPNET}'\nmodel = dict(decode_head=dict(num_classes=11))\n"
    )
    cfg = Config.fromfile(config)
    expected = direct().model.to_dict()
    expected['decode_head']['num_classes'] = 11
    assert cfg.model.pop('_scope_') == 'mmseg'
    assert cfg.model.to_dict() == expected


@pytest.mark.parametrize('module', ['mmseg', 'mmdet', 'mmpretrain', 'mmkd'])
def test_modules_stand_for_themselves(module: str) -> None:
    assert MODULE2PACKAGE[module] == module


# -------------------------------------------------------------------------------------------------
# mmkd:: paths
@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that mmengine takes for the installed mmkd, with one config in its
    ``.mim``.
    """
    folder = tmp_path / 'installed'
    config = folder / '.mim' / 'configs' / 'paper' / 'recipe.py'
    config.parent.mkdir(parents=True)
    config.write_text(
        "val_evaluator = dict(type='IoUMetric')\nmodel = dict(type='mmseg.FCNHead', num_convs=0, "
        'concat_input=False, in_channels=4, channels=4,\n             num_classes=2, '
        "loss_decode=dict(type='CrossEntropyLoss'))\n"
    )
    (folder / '.mim' / 'model-index.yml').write_text('Import: [configs/paper/metafile.yml]\n')
    (config.parent / 'metafile.yml').write_text(
        'Models: [{Name: recipe, Config: configs/paper/recipe.py, Weights: weights.pth}]\n'
    )
    monkeypatch.setattr(mmengine.config.config, 'get_installed_path', lambda name: str(folder))
    monkeypatch.setattr(mmengine.hub.hub, 'get_installed_path', lambda name: str(folder))
    return folder


def test_get_config_finds_mmkd(package: Path) -> None:
    assert get_config('mmkd::paper/recipe.py').val_evaluator == dict(type='IoUMetric')
    assert get_config('mmkd::paper/recipe.py', pretrained=True).model_path == 'weights.pth'


@pytest.mark.usefixtures('package')
def test_base_from_mmkd_keeps_the_scope_of_the_heir(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text("_base_ = 'mmkd::paper/recipe.py'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.val_evaluator == dict(
        type='IoUMetric'
    )  # no _scope_='mmkd', in which there is no IoUMetric
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert type(METRICS.build(cfg.val_evaluator)) is mmseg.evaluation.IoUMetric


@pytest.mark.usefixtures('package')
def test_get_model_builds_bare_mmseg_names() -> None:
    model = get_model('mmkd::paper/recipe.py')
    assert sum(p.numel() for p in model.parameters()) == 4 * 2 + 2  # the classifier, its bias


# ------------------------------------------------------------------------------------------ two
# distributions
def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def distribution(name: str) -> Distribution:
        if name not in names:
            raise PackageNotFoundError(name)
        return Distribution.at('.')

    monkeypatch.setattr(libraries, 'distribution', distribution)


@pytest.mark.parametrize(
    ('fork', 'upstream'),
    [
        ('onedl-mmengine', 'mmengine'),
        ('onedl-mmengine', 'mmengine-lite'),
        ('onedl-mmcv', 'mmcv'),
        ('onedl-mmcv', 'mmcv-lite'),
        ('onedl-mmcv', 'mmcv-full'),
        ('onedl-mmsegmentation', 'mmsegmentation'),
        ('onedl-mmdetection', 'mmdet'),
        ('onedl-mmpretrain', 'mmpretrain'),
    ],
)
def test_two_distributions_are_refused(
    monkeypatch: pytest.MonkeyPatch, fork: str, upstream: str
) -> None:
    installed(monkeypatch, fork, upstream)
    with pytest.raises(ImportError) as error:
        compat.refuse_two_distributions()
    assert str(error.value) == (
        f'{upstream} and {fork} are both installed and write into the same folder. Mend: pip '
        f'uninstall -y {upstream} {fork} && pip install {fork}'
    )


def test_all_pairs_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(
        monkeypatch,
        'onedl-mmengine',
        'mmengine',
        'onedl-mmcv',
        'mmcv-lite',
        'mmcv',
        'onedl-mmsegmentation',
    )
    with pytest.raises(ImportError) as error:
        compat.refuse_two_distributions()
    assert str(error.value) == (
        'mmengine and onedl-mmengine, mmcv and onedl-mmcv, mmcv-lite and onedl-mmcv are both '
        'installed and write into the same folder. Mend: pip uninstall -y mmengine mmcv mmcv-lite '
        'onedl-mmengine onedl-mmcv && pip install onedl-mmengine onedl-mmcv'
    )


def test_every_name_of_mmengine_for_the_newest_checkpoint_and_for_urls_is_mmkds() -> None:
    from mmengine import runner
    from mmengine.runner import _flexible_runner
    from mmengine.utils import dl_utils

    from mmkd.utils.checkpoints import latest_checkpoint

    for module in (runner, runner.runner, runner.checkpoint, _flexible_runner):
        assert module.find_latest_checkpoint is latest_checkpoint
    assert dl_utils.load_url is runner.checkpoint.load_url
    with pytest.raises(FileNotFoundError, match='only files and http'):
        dl_utils.load_url('ftp://models.example/a.pth')


def test_importing_mmkd_prints_nothing(fresh_import: subprocess.CompletedProcess) -> None:
    assert fresh_import.returncode == 0, fresh_import.stderr
    assert fresh_import.stdout == 'registered mmseg.datasets\n', "and imports mmseg's data sets"


def test_other_output_of_the_import_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def noisy(name: str) -> None:
        if name == 'mmseg.datasets':
            print('Could not import OneDL\nyour dataset is deprecated\nCould not import OneDL')

    monkeypatch.setattr(compat, 'import_module', noisy)
    compat.import_mmseg()
    assert capsys.readouterr().out == 'your dataset is deprecated\n'


def test_the_text_of_a_config_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where the config has changed, or the options have; so many are remembered."""
    asked = []

    def lay_out(unformatted_source: str, style_config: object = None) -> tuple[str, bool]:
        asked.append((unformatted_source, style_config))
        return unformatted_source.upper(), True

    monkeypatch.setattr(yapf_api, 'FormatCode', lay_out)
    compat.format_configs_once()
    for style in ('a', 'a', 'b'):
        assert yapf_api.FormatCode('x = 1', style_config=style) == ('X = 1', True)
    assert asked == [('x = 1', 'a'), ('x = 1', 'b')]
    for number in range(compat.FORMATTED):
        yapf_api.FormatCode(f'y = {number}')
    assert yapf_api.FormatCode('x = 1', style_config='a') == ('X = 1', True)
    assert asked[-1] == ('x = 1', 'a'), 'the oldest was forgotten'


def test_a_config_that_was_changed_has_its_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def lay_out(unformatted_source: str, **options: object) -> tuple[str, bool]:
        asked.append(unformatted_source)
        return unformatted_source.upper(), True

    monkeypatch.setattr(yapf_api, 'FormatCode', lay_out)
    compat.format_configs_once()
    cfg = Config(dict(a=1, b=dict(c=2)))
    assert cfg.pretty_text == cfg.pretty_text == 'A=1\nB=DICT(\n    C=2)'
    cfg.b.c = 3
    assert cfg.pretty_text == 'A=1\nB=DICT(\n    C=3)'
    assert asked == ['a=1\nb=dict(\n    c=2)', 'a=1\nb=dict(\n    c=3)']


@pytest.mark.parametrize(
    'names',
    [
        [],
        [
            'onedl-mmengine',
            'onedl-mmcv',
            'onedl-mmsegmentation',
            'onedl-mmdetection',
            'onedl-mmpretrain',
        ],
        ['mmengine', 'mmcv', 'mmsegmentation', 'mmdet', 'mmpretrain'],
        ['onedl-mmengine', 'mmdet'],
    ],
)
def test_one_distribution_each_is_accepted(
    monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    installed(monkeypatch, *names)
    compat.refuse_two_distributions()


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(compat, 'find_spec', lambda name: None if name in modules else name)


@pytest.mark.bad_input
@pytest.mark.parametrize('lost', [('mmengine', 'mmcv', 'mmseg'), ('mmseg',)])
def test_what_is_missing_of_the_fork_is_named(
    monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
) -> None:
    installed(monkeypatch, *(['onedl-mmengine', 'onedl-mmcv'] if len(lost) == 1 else []))
    without(monkeypatch, *lost)
    with pytest.raises(ImportError) as error:
        compat.require_one_family()
    assert str(error.value) == (
        f'mmkd needs mmengine, mmcv and mmseg; missing here: {", ".join(lost)}. Mend: pip install '
        "'mmkd[onedl]', the maintained line; or, for upstream OpenMMLab, pip install "
        "'mmkd[openmmlab]', and an mmcv 2.1 with its compiled operations for this torch"
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('lost', 'told'), [('mmcv', 'mmcv'), ('ftfy', 'ftfy'), ('pkg_resources', 'setuptools below 81')]
)
def test_what_upstream_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, lost: str, told: str
) -> None:
    """No fork goes over it: the other way out is another environment."""
    installed(monkeypatch, 'mmengine', 'mmsegmentation')
    without(monkeypatch, lost)
    with pytest.raises(ImportError) as error:
        compat.require_one_family()
    assert str(error.value) == (
        f'mmkd needs mmengine, mmcv and mmseg; missing here: {told}. Mend: pip install '
        "'mmkd[openmmlab]', and an mmcv 2.1 with its compiled operations for this torch; or, in an "
        'environment without mmengine, mmcv and mmsegmentation, the maintained line, which needs '
        "no compiled operations: pip install 'mmkd[onedl]'"
    )


@pytest.mark.parametrize(
    'names',
    [
        ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'mmdet'],
        ['mmengine', 'mmcv-lite', 'mmsegmentation'],
    ],
)
def test_either_family_is_accepted(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    installed(monkeypatch, *names)
    upstream = 'mmengine' in names
    without(monkeypatch, *([] if upstream else ['ftfy', 'pkg_resources']))
    compat.require_one_family()
    assert compat.has_upstream() == upstream


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('error', 'why'),
    [
        ("No module named 'mmcv._ext'", 'this mmcv has no compiled operations, or they are for an'),
        ("No module named 'x'", 'something that it needs is missing'),
    ],
)
def test_an_mmseg_that_does_not_import_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: str, why: str
) -> None:
    def broken(name: str) -> NoReturn:
        raise ModuleNotFoundError(error)

    installed(monkeypatch, 'mmengine')
    monkeypatch.setattr(compat, 'import_module', broken)
    with pytest.raises(ImportError) as raised:
        compat.import_mmseg()
    text = str(raised.value)
    assert text.startswith(f'mmsegmentation does not import here ({error}): {why}')
    assert "pip install 'mmkd[openmmlab]'" in text
    assert "pip install 'mmkd[onedl]'" in text


@pytest.mark.bad_input
def test_the_mend_of_a_library_is_of_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> NoReturn:
        raise ImportError('gone')

    monkeypatch.setattr(compat, 'import_module', broken)
    for names, mend in ((['mmengine'], 'pip install mmdet,'), ([], r"pip install 'mmkd\[det\]'")):
        installed(monkeypatch, *names)
        with pytest.raises(ImportError, match=f'uses mmdet, which does not .*Mend: {mend}'):
            compat.require_library('mmdet', 'FCOS', 'the teacher')


def test_import_says_what_is_missing_before_anything_fails(tmp_path: Path) -> None:
    """In an environment with torch alone: no trace of an import of mmengine."""
    code = (
        'import importlib.util as u; find = u.find_spec; '
        "u.find_spec = lambda n, p=None: None if n[:2] == 'mm' and n != 'mmkd' else find(n, p); "
        'import mmkd'
    )
    run = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(
        'ImportError: mmkd needs mmengine, mmcv and mmseg; missing here: mmengine, mmcv, mmseg. '
    )


def test_import_refuses_before_it_touches_the_stack(tmp_path: Path) -> None:
    for name in ('mmcv_lite', 'onedl_mmcv'):
        (tmp_path / f'{name}-2.3.6.dist-info').mkdir()
        (tmp_path / f'{name}-2.3.6.dist-info' / 'METADATA').write_text(
            f'Name: {name}\nVersion: 2.3.6\n'
        )
    (tmp_path / 'mmengine.py').write_text(
        "raise RuntimeError('a mixed folder may not even import')\n"
    )
    run = subprocess.run(
        [sys.executable, '-c', 'import mmkd'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert run.returncode == 1
    assert 'ImportError: mmcv-lite and onedl-mmcv are both installed' in run.stderr
