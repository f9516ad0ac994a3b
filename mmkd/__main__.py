"""The command ``mmkd``, also ``python -m mmkd``: reads what is asked for before torch is loaded."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module, metadata

from mmkd.apis.commands import FORMER, GROUPS, LIGHT, PURPOSES, module_of, parser_of
from mmkd.apis.flags import unknown
from mmkd.version import __version__

USAGE, INTERRUPTED = 2, 130  # argparse's; 128 + SIGINT, as shells count
HELP, VERSION = ('-h', '--help', 'help'), ('-V', '--version')
STACK = ('torch', 'mmengine', 'mmcv', 'mmsegmentation')


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Args:
        argv: The command's name and its arguments; None takes those of the process.

    Raises:
        SystemExit: As :func:`mmkd.apis.cli.run` and argparse end.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return INTERRUPTED


def tool(name: str) -> None:
    """Run a command as ``mmkd NAME``, by the arguments of the process.

    Raises:
        SystemExit: Its exit code is another one than 0.
    """
    code = main([name, *sys.argv[1:]])
    if code:
        raise SystemExit(code)


def _main(argv: list[str]) -> int:
    first = argv[0] if argv else ''
    name = first.replace('_', '-')
    name = FORMER.get(name, name)
    if first in VERSION:
        print('\n'.join(versions()))
    elif first in HELP and len(argv) < 2:
        print(overview())
    elif first == 'help':
        return _main([argv[1], '--help'])
    elif name in PURPOSES:
        return _run(name, argv[1:])
    elif not first:
        print(overview(), file=sys.stderr)
        return USAGE
    else:
        what = 'option' if first.startswith('-') else 'command'
        known = [*HELP, *VERSION] if what == 'option' else list(PURPOSES)
        print(f'mmkd: error: {unknown(what, first, known)} (mmkd --help)', file=sys.stderr)
        return USAGE
    return 0


def _run(name: str, argv: list[str]) -> int:
    module, parser = module_of(name), parser_of(name)
    args = parser.read(argv)
    if hasattr(module, 'check_arguments'):
        module.check_arguments(parser, args)
    work: Callable[[], int | None] = partial(module.main, args)
    if name in LIGHT:
        return work() or 0
    try:
        import_module('mmkd.apis.components')
    except ImportError as error:
        if 'Mend: ' not in str(error):
            raise
        raise SystemExit(f'error: {error}') from error
    return import_module('mmkd.apis.cli').run(work, args.verbose, args.debug)


def overview() -> str:
    """Return what the commands are for, in groups."""
    width = max(map(len, PURPOSES))
    lines = ['usage: mmkd COMMAND …', '', 'Knowledge distillation with OpenMMLab configs.']
    for group, commands in GROUPS.items():
        lines += ['', f'{group}:']
        lines += [f'  {name:{width}}  {purpose}' for name, purpose in commands.items()]
    return '\n'.join([*lines, '', 'mmkd COMMAND --help says more; mmkd --version: of the stack.'])


def versions() -> list[str]:
    """Return a line for mmkd and for each library that it stands on; none is imported."""
    return [f'mmkd {__version__}', *(f'{library} {_version(library)}' for library in STACK)]


def _version(library: str) -> str:
    for name in (f'onedl-{library}', library):  # the maintained line, then upstream
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return 'is not installed'


if __name__ == '__main__':
    sys.exit(main())
