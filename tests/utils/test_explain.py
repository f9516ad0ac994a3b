"""Errors as sentences: what registries and workers wrap around them comes off; a bug is told from a
mistake.
"""

from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from mmkd.datasets.checked import SampleError
from mmkd.utils.explain import explain, is_mistake

TEXT = 'ann/3.png has the size (60, 50).\n  Two lines, ValueError: among them. Mend: another file'


class Broken(Dataset):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        try:
            raise OSError('the cause')
        except OSError as cause:
            raise self.error from cause


@pytest.mark.parametrize('kind', [ValueError, KeyError, OSError, SampleError])
def test_the_message_comes_out_of_a_worker_as_it_went_in(kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        next(iter(DataLoader(Broken(kind(TEXT)), num_workers=1)))
    assert 'Traceback' in str(raised.value.args[0])
    if kind is KeyError:  # Python prints its text in quotes, lines escaped
        assert 'ann/3.png has the size' in explain(raised.value)
        assert 'Traceback' not in explain(raised.value)
    else:
        assert explain(raised.value) == TEXT
    assert is_mistake(raised.value)


def test_the_prefixes_of_nested_registries() -> None:
    """mmengine up to 0.10.7 puts them in front, once a registry."""
    text = (
        'class `Distiller` in mmkd/distiller/distiller.py: class `PSPHead` in '
        'mmseg/models/psp-head.py: no such tap'
    )
    assert explain(KeyError(text)) == explain(ValueError(text)) == 'no such tap'


@pytest.mark.parametrize(
    ('error', 'mistake'),
    [
        (ValueError('a must be above 0, got 0'), True),
        (TypeError('got an unknown key'), True),
        (KeyError('no tap'), True),
        (FileNotFoundError(2, 'No such file', 'x'), True),
        (ImportError('no module x'), True),
        (RuntimeError('shapes do not fit'), True),
        (FloatingPointError('loss is nan'), True),
        (MemoryError(), False),
        (AttributeError("'NoneType' object has no attribute 'shape'"), False),
        (AssertionError('a is b'), True),
        (AssertionError(), False),
        (IndexError('list index out of range'), False),
        (KeyError('feat'), False),
        (ValueError(), False),
        (RecursionError('maximum recursion depth exceeded'), False),
        (AssertionError('no data. Mend: lay it out'), True),
    ],
)
def test_mistakes_and_bugs(error: Exception, mistake: bool) -> None:
    assert is_mistake(error) is mistake
