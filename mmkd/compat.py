"""What today's OpenMMLab stack needs before anything of it is used; imported first."""
from importlib.metadata import PackageNotFoundError, distribution

import mmengine.config.utils
from mmengine.config.utils import MODULE2PACKAGE


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def refuse_two_distributions() -> None:
    """Raise where upstream and the maintained fork own the same import folder.

    Raises:
        ImportError: both distributions of one package are installed; whichever
            was installed last has overwritten files of the other.
    """
    for package in ('mmengine', 'mmcv', 'mmsegmentation', 'mmdetection', 'mmpretrain'):
        upstream = {'mmdetection': 'mmdet'}.get(package, package)
        if _installed(upstream) and _installed(f'onedl-{package}'):
            raise ImportError(
                f'{upstream} and onedl-{package} are both installed and write into the same folder. Mend: '
                f'pip uninstall -y {upstream} onedl-{package} && pip install onedl-{package}')


refuse_two_distributions()
# Without these `mmseg::…` paths pip-install upstream packages under the fork, and `mmkd::…` is refused.
for _module in ('mmseg', 'mmdet', 'mmpretrain', 'mmkd'):
    MODULE2PACKAGE[_module] = _module
