"""Libraries that may be missing, and how each is installed."""

MENDS = {
    'mmdet': "pip install 'mmkd[det]', and mmcv with its compiled operations: pip install "
    '--no-build-isolation --no-binary onedl-mmcv --force-reinstall --no-deps onedl-mmcv (half an '
    'hour)',
    'mmpretrain': 'pip install onedl-mmpretrain, and a torchvision for this torch',
}


def missing_library(error: BaseException) -> str:
    """Return which of these libraries an import error speaks of, '' for none.

    >>> missing_library(ImportError("Failed to import custom modules from 'mmpretrain.models'"))
    'mmpretrain'
    """
    named = [name for name in MENDS if name in str(error)]
    return named[0] if isinstance(error, ImportError) and named else ''
