"""The house: what lies on top, that imports only go down, and that contracts are declared.

Floors are listed from the top. A module may import from its own room and from rooms of lower
floors; rooms of one floor may import each other as long as there is no circle. An import within a
function counts like any other; one under ``TYPE_CHECKING`` does not.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

MMKD = Path(__file__).resolve().parents[1] / 'mmkd'
TOP = ['__init__.py', '__main__.py', 'compat.py', 'registry.py', 'version.py']
FLOORS = (
    ('mmkd', '__main__'),  # the package itself offers names of every room
    ('apis',),
    ('engine',),
    ('models',),  # an ensemble is made of members
    ('distiller',),
    ('evaluation', 'noise', 'connectors', 'where'),
    ('losses', 'datasets'),
    ('methods',),  # from a pair to a config: it names losses and builds none itself
    ('tasks',),
    ('registry', 'compat'),
    ('utils',),
    ('structures', 'version'),
)
FLOOR = {room: -height for height, rooms in enumerate(FLOORS) for room in rooms}
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@lru_cache
def modules() -> list[Path]:
    return [path for path in sorted(MMKD.rglob('*.py')) if '.mim' not in path.parts]


@lru_cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def dotted(path: Path) -> str:
    """Return ``mmkd.losses.base`` for its file, ``mmkd.losses`` for its ``__init__.py``."""
    parts = path.relative_to(MMKD.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def room(module: str) -> str:
    """Return the first name below ``mmkd``, and ``mmkd`` of the package itself."""
    return module.split('.')[1] if '.' in module else module


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every import from mmkd, but those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)
        yield from imports(node)


@lru_cache
def arrows() -> list[tuple[str, int, str]]:
    """Return (importing module, line, imported module) of every import within mmkd."""
    known = {dotted(path) for path in modules()}
    found = []
    for path in modules():
        for line, name in imports(tree_of(path)):
            # the name is a module, or something in one
            module = name if name in known else name.rpartition('.')[0]
            if name.split('.')[0] == 'mmkd':
                found.append((dotted(path), line, module))
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return names that lead back to the first of them; nothing where there is no circle."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            found = walk(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in sorted(graph))), [])


def graph_of(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for one, other in pairs:
        if one != other:
            graph.setdefault(one, set()).add(other)
    return graph


def test_five_files_lie_on_top() -> None:
    assert sorted(path.name for path in MMKD.glob('*.py')) == TOP


def test_every_room_has_a_floor() -> None:
    assert {room(dotted(path)) for path in modules()} == set(FLOOR)


def test_imports_only_go_down() -> None:
    up = [
        f'{module}:{line} imports {other}'
        for module, line, other in arrows()
        if FLOOR[room(other)] > FLOOR[room(module)]
    ]
    assert up == []


def test_no_circle_between_rooms() -> None:
    pairs = [(room(module), room(other)) for module, _, other in arrows()]
    assert circle(graph_of(pairs)) == []


def test_no_circle_between_modules() -> None:
    pairs = [(module, other) for module, _, other in arrows()]
    assert circle(graph_of(pairs)) == []


def test_a_circle_is_found() -> None:
    assert circle(dict(a={'b'}, b={'c', 'd'}, c=set(), d={'b'})) == ['b', 'd', 'b']
    assert circle(dict(a={'b', 'c'}, b={'c'})) == []


def nested(tree: ast.AST, inside: bool = False) -> Iterator[int]:
    """Yield the lines of comprehensions that stand in another one."""
    here = isinstance(tree, COMPREHENSIONS)
    if here and inside:
        yield tree.lineno
    for node in ast.iter_child_nodes(tree):
        yield from nested(node, inside or here)


def test_no_comprehension_inside_a_comprehension() -> None:
    found: dict[str, list[int]] = {}
    for path in modules():
        lines = list(nested(tree_of(path)))
        if lines:
            found[path.relative_to(MMKD).as_posix()] = lines
    assert found == {}


TASK_ROOMS = ('tasks', 'datasets', 'models', 'evaluation/functional/predictions.py')
# pattern -> where it is looked for, and where it may stand
NOT_IN_CODE = {
    'the core names no paper': (
        r'(?i)vocabular|\bquest',
        ('distiller', 'structures', 'apis'),
        ('apis/commands/', 'apis/components.py'),  # a paper's command; what is registered
    ),
    'a task is known in its room': (r'gt_(sem_seg|label|instances|depth_map)', ('',), TASK_ROOMS),
    'a loss declares what it offers': (
        r'getattr\((self|objective)\.loss|hasattr\((self\.)?loss',
        ('',),
        (),
    ),
    'types are imported as all else': (r'TYPE_CHECKING', ('',), ()),
}


def lines_with(pattern: str, where: Iterable[str], allowed: Iterable[str]) -> list[str]:
    found = []
    for path in modules():
        name = path.relative_to(MMKD).as_posix()
        if not name.startswith(tuple(where)) or name.startswith(tuple(allowed)):
            continue
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if re.search(pattern, line):
                found.append(f'{name}:{number}: {line.strip()}')
    return found


@pytest.mark.parametrize('rule', NOT_IN_CODE)
def test_what_code_does_not_say(rule: str) -> None:
    assert lines_with(*NOT_IN_CODE[rule]) == []
