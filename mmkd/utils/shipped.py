"""Where configs lie: in ``mmkd/.mim`` of an installed mmkd, else in the checkout around it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path:
    """Return the folder of the checkout that this mmkd is imported from.

    Raises:
        FileNotFoundError: It is imported from a wheel.
    """
    root = PACKAGE.parent
    if not (root / 'configs').is_dir() or not (root / 'model-index.yml').is_file():
        raise FileNotFoundError(
            f'mmkd lies in {PACKAGE}, which is no checkout. Mend: clone the repository, pip '
            'install -e . there, and call this again'
        )
    return root


def shipped(path: str) -> Path:
    """Return a file or folder that is shipped, such as ``configs/demo``.

    Raises:
        FileNotFoundError: It is neither in the package nor in a checkout around it.
    """
    inside = PACKAGE / '.mim' / path
    return inside if inside.exists() else checkout() / path
