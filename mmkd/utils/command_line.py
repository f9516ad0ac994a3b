"""Whether this process was started as the command ``mmkd``, whose help does without torch."""

from collections.abc import Sequence
from pathlib import PurePath

SCRIPTS = ('mmkd', 'mmkd.exe')  # as installers name the console script


def starts_command(argv: Sequence[str], orig_argv: Sequence[str]) -> bool:
    """Return whether Python is starting the command, by its script or as ``python -m mmkd``.

    While ``python -m`` looks for a module, ``sys.argv[0]`` is ``-m``. A process that
    multiprocessing spawns has its parent's ``sys.argv``, but a command line of its own.

    Args:
        argv: ``sys.argv``.
        orig_argv: ``sys.orig_argv``.

    >>> starts_command(['-m', 'train'], ['python', '-u', '-m', 'mmkd', 'train'])
    True
    >>> starts_command(['/bin/mmkd', 'train'], ['python', '/bin/mmkd', 'train'])
    True
    >>> starts_command(['/bin/mmkd', 'train'], ['python', '-c', 'spawn_main()', '--fork'])
    False
    >>> starts_command(['my_script.py'], ['python', 'my_script.py'])
    False
    """
    if not 0 < len(argv) < len(orig_argv):
        return False
    given = orig_argv[-len(argv)]
    if argv[0] == '-m':
        return given == 'mmkd'
    return given == argv[0] and PurePath(given).name in SCRIPTS
