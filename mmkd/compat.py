"""What today's OpenMMLab stack needs before anything of it is used; imported first."""

import functools
import io
import os
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmkd.utils.libraries import MENDS, SAME_FOLDER, has_upstream, installed, mend_of

FORMATTED = 8  # texts of configs that are remembered: a run has two


def refuse_two_distributions() -> None:
    """Raise where upstream and the maintained fork own the same import folder.

    Raises:
        ImportError: both distributions of a package are installed; whichever
            was installed last has overwritten files of the other. Names all.
    """
    pairs = [
        (upstream, fork)
        for fork, upstreams in SAME_FOLDER.items()
        for upstream in upstreams
        if installed(fork) and installed(upstream)
    ]
    if not pairs:
        return
    forks = list(dict.fromkeys(fork for _, fork in pairs))
    both = ', '.join(f'{upstream} and {fork}' for upstream, fork in pairs)
    remove = ' '.join([*(upstream for upstream, _ in pairs), *forks])
    raise ImportError(
        f'{both} are both installed and write into the same folder. Mend: pip uninstall -y '
        f'{remove} && pip install {" ".join(forks)}'
    )


# What mmkd imports of either family, and what upstream's import or use besides.
NEEDED = ('mmengine', 'mmcv', 'mmseg')
NEEDED_UPSTREAM = {'ftfy': 'ftfy', 'regex': 'regex', 'pkg_resources': 'setuptools below 81'}
ONEDL = "pip install 'mmkd[onedl]'"
UPSTREAM = (
    "pip install 'mmkd[openmmlab]', and an mmcv 2.1 with its compiled operations for this torch"
)


def _is_there(module: str) -> bool:
    return find_spec(module) is not None


def require_one_family() -> None:
    """Raise where mmengine, mmcv or mmseg is missing, of upstream OpenMMLab or of its fork.

    Raises:
        ImportError: Says what is missing, and both ways out: to complete what is there, or the
            maintained line.
    """
    missing = [name for name in NEEDED if not _is_there(name)]
    if has_upstream():
        missing += [told for name, told in NEEDED_UPSTREAM.items() if not _is_there(name)]
    if missing:
        raise ImportError(
            f'mmkd needs mmengine, mmcv and mmseg; missing here: {", ".join(missing)}. '
            f'Mend: {_ways_out()}'
        )


def _ways_out() -> str:
    if has_upstream():
        return (
            f'{UPSTREAM}; or, in an environment without mmengine, mmcv and mmsegmentation, the '
            f'maintained line, which needs no compiled operations: {ONEDL}'
        )
    return f'{ONEDL}, the maintained line; or, for upstream OpenMMLab, {UPSTREAM}'


def mend_config_paths() -> None:
    """Make ``mmseg::…`` and ``mmkd::…`` resolve, in ``get_config`` and in ``_base_``.

    Unmended, ``mmseg::…`` pip-installs upstream packages under the fork, and ``mmkd::…`` is
    refused.

    mmengine also marks what an external base holds with that package as scope. The configs of mmkd
    are mmseg configs with some ``mmkd.`` parts: under the mark, ``IoUMetric`` and ``PackSegInputs``
    would be looked for in mmkd, in vain. So ``_base_ = 'mmkd::…'`` leaves the scope to the config
    that inherits.
    """
    # imported here: a folder that two distributions share may not even import
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    for module in ('mmseg', 'mmdet', 'mmpretrain', 'mmkd'):
        MODULE2PACKAGE[module] = module
    original = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == 'mmkd' else scope

    Config._get_cfg_path = staticmethod(get_cfg_path)


def import_mmseg() -> None:
    """Import mmseg's data sets and models, without lines about a library that nobody asked for.

    Raises:
        ImportError: They need what is not here, such as mmcv's compiled operations; says both ways
            out.
    """
    try:
        with redirect_stdout(io.StringIO()) as printed:
            import_module('mmseg.datasets')
            import_module('mmseg.models')
    except ImportError as error:
        raise ImportError(
            f'mmsegmentation does not import here ({error}): {_why(error)}. Mend: {_ways_out()}'
        ) from error
    for line in printed.getvalue().splitlines():
        if line != 'Could not import OneDL':
            print(line)


def _why(error: ImportError) -> str:
    if 'mmcv._ext' in str(error):
        return 'this mmcv has no compiled operations, or they are for another torch'
    return 'something that it needs is missing'


def require_library(scope: str, kind: object, what: str) -> None:
    """Refuse a model of a library that does not import.

    mmengine warns, goes on, and then misses the first type of that library.

    Args:
        scope: Registry scope; only 'mmdet' and 'mmpretrain' may be missing.
        kind: The model's type; one of mmkd needs no library.
        what: How the error calls the model.

    Raises:
        ImportError: Says what is missing, and the mend.
    """
    if scope not in MENDS or str(kind).startswith('mmkd.'):
        return
    try:
        import_module(f'{scope}.models')
    except ImportError as error:
        mend = mend_of(scope)
        raise ImportError(
            f'{what} uses {scope}, which does not import here ({error}). Mend: {mend}'
        ) from error


def read_checkpoints_as_data() -> None:
    """Have mmengine read every file by mmkd's reader.

    That is of ``load_from``, ``resume``, ``Pretrained`` and ``init_model``. mmengine's own loads a
    file that ``weights_only=True`` refuses once more without it, which runs the code that it may
    hold; its downloads are loaded so at once; and ``last_checkpoint`` may name any file and any
    URL.
    """
    from mmengine import runner as runners
    from mmengine.runner import _flexible_runner, checkpoint, runner
    from mmengine.utils import dl_utils

    from mmkd.utils.checkpoints import latest_checkpoint, load_for_mmengine

    checkpoint._safe_torch_load = load_for_mmengine

    def load_url(
        url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
    ) -> Any:
        return load_for_mmengine(url)

    # mmengine's own names no other file where one is missing
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return load_for_mmengine(os.path.expanduser(filename))

    checkpoint.CheckpointLoader.register_scheme('', load_from_local, force=True)
    checkpoint.load_url = dl_utils.load_url = load_url
    for module in (checkpoint, runner, _flexible_runner, runners):
        module.find_latest_checkpoint = latest_checkpoint


def format_configs_once() -> None:
    """Have yapf lay out the text of a config once.

    mmengine asks for it in the log, in the folder, and again in every checkpoint, half a second
    and more each time.
    """
    from yapf.yapflib import yapf_api

    original, remembered = yapf_api.FormatCode, dict[tuple[str, str], Any]()

    @functools.wraps(original)
    def format_code(unformatted_source: str, *args: Any, **kwargs: Any) -> Any:
        key = (unformatted_source, repr((args, kwargs)))
        if key not in remembered:
            while len(remembered) >= FORMATTED:
                remembered.pop(next(iter(remembered)))
            remembered[key] = original(unformatted_source, *args, **kwargs)
        return remembered[key]

    yapf_api.FormatCode = format_code


refuse_two_distributions()
require_one_family()
mend_config_paths()
format_configs_once()
read_checkpoints_as_data()
# mmcv says so in each process where its compiled ops are missing, which mmkd does not need.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
import_mmseg()
