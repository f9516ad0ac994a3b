"""Libraries that may be missing: which family is installed, and how each one is."""

from importlib.metadata import PackageNotFoundError, distribution

# fork → upstream distributions that write into the same import folder
SAME_FOLDER = {
    'onedl-mmengine': ('mmengine', 'mmengine-lite'),
    'onedl-mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full'),
    'onedl-mmsegmentation': ('mmsegmentation',),
    'onedl-mmdetection': ('mmdet',),
    'onedl-mmpretrain': ('mmpretrain',),
}


def installed(name: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def has_upstream() -> bool:
    """Return whether what mmkd needs is of upstream OpenMMLab, over which no fork may go."""
    forks = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation')
    return any(installed(name) for fork in forks for name in SAME_FOLDER[fork])


MENDS = {
    'mmdet': "pip install 'mmkd[det]', and mmcv with its compiled operations: pip install "
    '--no-build-isolation --no-binary onedl-mmcv --force-reinstall --no-deps onedl-mmcv (half an '
    'hour)',
    'mmpretrain': 'pip install onedl-mmpretrain, and a torchvision for this torch',
}
MENDS_UPSTREAM = {
    'mmdet': 'pip install mmdet, and mmcv with its compiled operations for this torch',
    'mmpretrain': 'pip install mmpretrain, and a torchvision for this torch',
}


def mend_of(library: str) -> str:
    """Return how a library is installed beside the family that is here."""
    return (MENDS_UPSTREAM if has_upstream() else MENDS)[library]


def missing_library(error: BaseException) -> str:
    """Return which of these libraries an import error speaks of, '' for none.

    >>> missing_library(ImportError("Failed to import custom modules from 'mmpretrain.models'"))
    'mmpretrain'
    """
    named = [name for name in MENDS if name in str(error)]
    return named[0] if isinstance(error, ImportError) and named else ''
