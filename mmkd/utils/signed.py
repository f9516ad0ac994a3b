"""Files that a command writes again, unless somebody edited them: the last line signs the rest."""

import hashlib


def sign(text: str, mark: str) -> str:
    """Return a text with a last line that signs it.

    Args:
        text: Lines.
        mark: Begins the last line; a comment.
    """
    return f'{text}{mark}{_digest(text)}\n'


def is_unedited(text: str, mark: str) -> bool:
    r"""Return whether a file still is as it was written; one that was never signed is not.

    >>> signed = sign("method = 'kd'\n", '# mmkd: ')
    >>> is_unedited(signed, '# mmkd: '), is_unedited(signed.replace('kd', 'skd'), '# mmkd: ')
    (True, False)
    >>> is_unedited("method = 'kd'\n", '# mmkd: ')
    False
    """
    above, signed, told = text.rpartition(mark)
    return bool(signed) and told.strip() == _digest(above)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
