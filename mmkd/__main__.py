"""``python -m mmkd TOOL …`` (or ``mmkd TOOL …``): the tools of ``tools/``, from a wheel as well."""

import runpy
import sys
from pathlib import Path

from mmkd.utils.checks import nearest

TOOLS = Path(__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Run the tool that the first argument names, with the rest.

    Raises:
        SystemExit: There is no such tool; names the nearest one, and all.
    """
    tools = sorted(file.stem for file in TOOLS.glob('*.py'))
    name = sys.argv[1].replace('-', '_') if len(sys.argv) > 1 else ''
    if name not in tools:
        wrong = (
            f'mmkd has no tool {name!r}{nearest(name, tools)}\n'
            if name not in ('', '__help', '_h')
            else ''
        )
        raise SystemExit(f'{wrong}usage: mmkd {{{",".join(tools)}}} …; mmkd TOOL --help says more')
    sys.argv = [f'mmkd {name}', *sys.argv[2:]]
    runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')


if __name__ == '__main__':
    main()
