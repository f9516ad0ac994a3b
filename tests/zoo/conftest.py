"""What these tests need: mmpretrain, timm and a torchvision for this torch (``make test-zoo``)."""

import importlib

import pytest


@pytest.fixture(scope='package', autouse=True)
def _zoo() -> None:
    for name in ('mmpretrain.models', 'timm'):
        try:
            importlib.import_module(name)
        except Exception as error:  # mmpretrain's import fails in more ways than by absence
            pytest.skip(f'{name} does not import ({type(error).__name__}: {error}): make test-zoo')
