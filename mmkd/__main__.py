"""``python -m mmkd TOOL …`` (or ``mmkd TOOL …``): the tools of ``tools/``, from a wheel as well."""

import ast
import runpy
import sys
from pathlib import Path

from mmkd.utils.checks import nearest

TOOLS = Path(__file__).parent / '.mim' / 'tools'
HELP = ('-h', '--help', 'help')


def main() -> None:
    """Run the tool that the first argument names, with the rest; ``--help`` lists them.

    Raises:
        SystemExit: There is no such tool; names the nearest one, and all.
    """
    tools = {file.stem: file for file in sorted(TOOLS.glob('*.py'))}
    usage = f'usage: mmkd {{{",".join(tools)}}} …; mmkd TOOL --help says more'
    if len(sys.argv) < 2:
        raise SystemExit(usage)
    name = sys.argv[1].replace('-', '_')
    if name in tools:
        sys.argv = [f'mmkd {name}', *sys.argv[2:]]
        runpy.run_path(str(tools[name]), run_name='__main__')
    elif sys.argv[1] in HELP:
        width = max(map(len, tools))
        lines = (f'  {tool:{width}}  {_purpose(file)}' for tool, file in tools.items())
        print(usage, '', *lines, sep='\n')
    else:
        raise SystemExit(f'mmkd has no tool {name!r}{nearest(name, list(tools))}\n{usage}')


def _purpose(tool: Path) -> str:
    """Return the first line of a tool's docstring; the tool, and torch with it, is not imported."""
    docstring = ast.get_docstring(ast.parse(tool.read_text(encoding='utf-8'))) or ''
    return docstring.partition('\n')[0]


if __name__ == '__main__':
    main()
