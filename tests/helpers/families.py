"""Which of the two families of OpenMMLab the tests run on."""

import pytest

from mmkd.compat import has_upstream


def only_onedl(reason: str) -> pytest.MarkDecorator:
    """Skip a test on upstream OpenMMLab, of what only its maintained fork has or does."""
    return pytest.mark.skipif(has_upstream(), reason=f'of the onedl line alone: {reason}')
