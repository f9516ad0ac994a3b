"""Config files: read, or told with file and line."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.utils.config_file import read_config, readable_text

pytestmark = pytest.mark.bad_input


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('a = 1\n')
    (tmp_path / 'x.py').write_text("_base_ = ['./base.py']\nb = 2\n")
    assert dict(read_config(str(tmp_path / 'x.py'))) == dict(a=1, b=2)
    assert 'train_cfg' in read_config('mmkd::_base_/schedule_40k.py')


def test_the_base_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / 'base.py').write_text('a = 1\nb = nothing\n')
    (tmp_path / 'x.py').write_text("_base_ = ['./base.py']\n")
    with pytest.raises(
        ValueError,
        match=r"x.py', by '\S+base.py' among its _base_, line 2: NameError: name 'nothing'",
    ):
        read_config(str(tmp_path / 'x.py'))


def test_numbers_that_are_none_are_read_again(tmp_path: Path) -> None:
    cfg = Config(dict(clip=dict(norm_type=float('inf'), low=-float('inf')), x=(float('nan'), 1.5)))
    (tmp_path / 'x.py').write_text(readable_text(cfg))
    found = read_config(str(tmp_path / 'x.py'))
    assert found.clip == dict(norm_type=float('inf'), low=-float('inf'))
    assert found.x[0] != found.x[0]
    assert found.x[1] == 1.5


def test_configs_of_a_package_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be imported all the same, from a checkout: mmengine looks into its installed copy."""
    (tmp_path / 'x.py').write_text("_base_ = ['mmkd::_base_/schedule_40k.py']\n")
    monkeypatch.setattr(
        'mmengine.config.config.get_installed_path', lambda name: f'/nowhere/{name}'
    )
    with pytest.raises(ValueError, match="configs of 'mmkd' are found .* Mend: pip install mmkd"):
        read_config(str(tmp_path / 'x.py'))


@pytest.mark.parametrize(
    ('path', 'error', 'pattern'),
    [
        ('mmkd::_base_/schedule_40.py', FileNotFoundError, "did you mean 'schedule_40k.py'"),
        ('mmkd::structured_kdd/x.py', FileNotFoundError, "did you mean 'structured_kd'"),
        ('mmkdd::x.py', FileNotFoundError, 'no such package is installed$'),
        ('numpy::pairs/x.py', FileNotFoundError, 'is not there: the package brings no configs'),
        ('x.txt', FileNotFoundError, r'is not there \(relative paths start at '),
        ('.', FileNotFoundError, 'is a folder, not a file'),
        (__file__.replace('.py', '.md'), FileNotFoundError, 'is not there'),
    ],
)
def test_paths(path: str, error: type[Exception], pattern: str) -> None:
    with pytest.raises(error) as raised:
        read_config(path)
    assert re.search(pattern, str(raised.value))
