"""Configs that come as text from a file: read as literals, never executed."""

import ast
from typing import Any

from mmengine.config import Config

# the longest config of mmsegmentation has 12 kB; a parsed line takes 500 times its length
_MAX_LENGTH = 2**18


def read_config_text(text: str, where: str) -> Config:
    r"""Return the config of a text of assignments, as mmengine writes it into checkpoints.

    Values are literals, lists, tuples, dicts, ``dict(key=value)`` and ``range(0, 5)``; nothing else
    is called, and nothing imported.

    Args:
        text: ``name = value`` lines.
        where: How errors call the text.

    Raises:
        ValueError: It holds anything else than such assignments.

    >>> read_config_text("a = 1\nb = dict(c=[-2., None], d={'e': (True, 'x')})", 'the text').b.d
    {'e': (True, 'x')}
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f'{where} has {len(text)} characters, more than any config')
    try:
        lines = ast.parse(text).body
        return Config(dict(_assignment(line) for line in lines))
    # of keys that are lists, ranges of text, names that Config keeps for itself
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        reason = (
            'it is nested too deep'
            if isinstance(error, RecursionError | MemoryError)
            else str(error)
        )
        raise ValueError(
            f'{where} is no config of plain values ({reason}), and no string of a file is '
            'executed. Mend: a checkpoint that the Runner saved, of a config without calls other '
            'than dict(…)'
        ) from error


def _assignment(line: ast.stmt) -> tuple[str, Any]:
    if (
        not isinstance(line, ast.Assign)
        or len(line.targets) != 1
        or not isinstance(line.targets[0], ast.Name)
    ):
        raise ValueError(f'line {line.lineno} is no assignment')
    return line.targets[0].id, _value(line.value)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _call(node)
    if isinstance(node, ast.Dict):
        keys = [_key(key, node) for key in node.keys]
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(map(_value, node.elts))
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):  # how Python prints these floats
        return float(node.id)
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Name)
    ):
        return -_value(node.operand)
    return ast.literal_eval(node)


def _call(node: ast.Call) -> Any:
    """Return what ``dict(a=1)``, ``dict({'a.b': 1})``, ``range(0, 5)`` and ``float('inf')`` say."""
    name = node.func.id if isinstance(node.func, ast.Name) else ''
    if (
        name == 'range'
        and not node.keywords
        and all(isinstance(part, ast.Constant) for part in node.args)
    ):
        return range(*map(_value, node.args))
    if name == 'float' and len(node.args) == 1 and not node.keywords:
        return _no_number(node)
    if (
        name != 'dict'
        or not all(isinstance(part, ast.Dict) for part in node.args[:1])
        or len(node.args) > 1
    ):
        raise ValueError(f'line {node.lineno} calls what is not dict')
    found = _value(node.args[0]) if node.args else {}
    return {**found, **{_keyword(item): _value(item.value) for item in node.keywords}}


def _no_number(node: ast.Call) -> float:
    said = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
    if said not in ('inf', '-inf', 'nan'):
        raise ValueError(f'line {node.lineno} calls what is not dict')
    return float(str(said))


def _keyword(item: ast.keyword) -> str:
    if item.arg is None:
        raise ValueError(f'line {item.value.lineno} unpacks a dict')
    return item.arg


def _key(key: ast.expr | None, owner: ast.Dict) -> Any:
    if key is None:
        raise ValueError(f'line {owner.lineno} unpacks a dict')
    return ast.literal_eval(key)
