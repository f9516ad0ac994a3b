"""The flags of the commands: read without torch, and what is misspelt names what is nearest."""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from mmkd.utils.checks import nearest

NUMBER = re.compile(r'-[\d.]')  # of an option's value, not an option
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class Parser(argparse.ArgumentParser):
    """argparse's, which names the nearest option or choice where one is misspelt."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return what the command line says; positional arguments may stand behind flags.

        Raises:
            SystemExit: It asks for help, or is wrong; with argparse's exit code 2.
        """
        for option in unknown_options(argv, self._option_string_actions):
            self.error(unknown('option', option, self._option_string_actions))
        # intermixed: a checkpoint that may be left out may also stand behind the flags
        return self.parse_intermixed_args(argv)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, unknown('choice', str(value), choices))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return what to say of a misspelt name.

    >>> unknown('choice', 'fp33', ['fp32', 'bf16'])
    "unknown choice 'fp33'; did you mean 'fp32'? (one of: fp32, bf16)"
    >>> unknown('option', '--wrok-dir', ['--work-dir'])
    "unknown option '--wrok-dir'; did you mean '--work-dir'?"
    """
    known = list(known)
    listed = f' (one of: {", ".join(known)})' if what == 'choice' else ''
    return f'unknown {what} {name!r}{nearest(name, known, count=1)}{listed}'


def unknown_options(argv: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the options of a command line that are none, nor the beginning of one.

    >>> unknown_options(['a.py', '--ampp', '--seed=1', '-3'], ['--amp', '--seeds'])
    ['--ampp']
    """
    known, found = list(known), []
    for token in argv:
        if token == '--':
            break
        option = token.partition('=')[0]
        # argparse takes what holds a space as a value, too
        if not option.startswith('-') or option == '-' or ' ' in token or NUMBER.match(token):
            continue
        begins = option.startswith('--') and any(name.startswith(option) for name in known)
        if option not in known and not begins:
            found.append(option)
    return found


class CfgOptions(argparse.Action):
    """mmengine's ``key=value …``; what it does not read, or reads as a word, is refused by name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Read the options."""
        for value in values:
            if not value.partition('=')[1]:
                parser.error(
                    f'{option_string} takes key=value …, got {value!r}. Mend: {value}=VALUE'
                )
        import_module('mmkd.compat')  # before anything of mmengine
        action = import_module('mmengine.config').DictAction(self.option_strings, self.dest)
        for value in values:
            key, _, told = value.partition('=')
            try:
                action(parser, namespace, [value], option_string)
                readable = not _holds_dict(getattr(namespace, self.dest)[key])
            except (AssertionError, RecursionError):  # a bracket too few; a dict with a comma
                readable = False
            if not readable:
                parser.error(
                    f'{option_string} {key}: a value is a number, a word, or a list of values, '
                    f'without dicts, got {told!r}. Mend: close its brackets; of a dict, one option '
                    f'for each of its keys, as {key}.KEY=VALUE, of a list {key}.0.KEY=VALUE; or '
                    'write it in the config'
                )


def _holds_dict(value: Any) -> bool:
    """Return whether a value has a word that was meant as a dict.

    >>> [_holds_dict(value) for value in (['dict(a=1)'], ("{'a':1}",), 'a{1}', [1, ['b']])]
    [True, True, False, False]
    """
    if isinstance(value, list | tuple):
        return any(map(_holds_dict, value))
    return isinstance(value, str) and value.startswith(('dict(', '{'))


class _Trust(argparse.Action):
    """A flag that takes effect as it is read."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        import_module('mmkd.compat')
        import_module('mmkd.utils.checkpoints').trust_checkpoints()


def common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command has which works on something."""
    parser.add_argument(
        '--verbose',
        action='store_true',
        help="print what otherwise goes to the log file alone: libraries' warnings, pages of "
        'settings',
    )
    parser.add_argument(
        '--debug', action='store_true', help='where something goes wrong, print the traceback'
    )
    parser.add_argument(
        '--trust-checkpoint',
        action=_Trust,
        nargs=0,
        help='let checkpoints run the code that they may hold: for files that you made yourself',
    )


def config_flags(parser: argparse.ArgumentParser, needed: bool = True) -> None:
    """Add a config, and what overrides its settings.

    Args:
        parser: To which.
        needed: Whether the config may not be left out.
    """
    about = 'config file, or pkg::path such as mmkd::structured_kd/….py'
    parser.add_argument('config', nargs=None if needed else '?', help=about)
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: key=value …'
    )


def run_flags(
    parser: argparse.ArgumentParser,
    work_dir: str = 'where logs and checkpoints go (default: work_dirs/<config name>)',
) -> None:
    """Add the flags of every run by a config: mmengine's usual ones.

    Args:
        parser: To which.
        work_dir: What --work-dir is.
    """
    config_flags(parser)
    parser.add_argument('--work-dir', help=work_dir)
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='what started several processes (default: none)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def seeds_flag(parser: argparse.ArgumentParser, default: Sequence[int], about: str) -> None:
    """Add ``--seeds``: different whole numbers from 0 to below 2³², as numpy takes them.

    Args:
        parser: Gets the flag.
        default: Seeds where none are given.
        about: Its help.
    """
    parser.add_argument(
        '--seeds', type=int, nargs='+', action=_Seeds, default=list(default), help=about
    )


class _Seeds(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(set(values)) < len(values) or min(values) < 0:
            parser.error(
                f'{option_string} must be different whole numbers of at least 0, got {values}'
            )
        if max(values) >= 2**32:
            parser.error(f'{option_string} must be below 2**32, got {values}')
        setattr(namespace, self.dest, values)


def count(least: int) -> Callable[[str], int]:
    """Return the ``type`` of a flag that is a whole number of at least ``least``.

    >>> count(1)('3')
    3
    """

    def read(text: str) -> int:
        if not text.strip().lstrip('+').isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f'must be a whole number of at least {least}, got {text!r}'
            )
        return int(text)

    return read
