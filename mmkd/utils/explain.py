"""Errors as sentences: what went wrong, without what libraries wrap around it."""

import re

from mmkd.utils.retell import retell

# What a wrong config, file or machine raises; every other kind is a bug of somebody's.
MISTAKES = (
    ArithmeticError,
    AssertionError,
    ImportError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_REGISTRY = re.compile(r'^(class `\w+` in [\w/.-]+: )+')
_WORKER = re.compile(r'^Caught (\w+) in .+ process \d+\.\nOriginal Traceback')


def explain(problem: str | BaseException) -> str:
    """Return an error as a sentence.

    A KeyError prints in quotes, registries put class and file in front, and a worker process of a
    data loader hands on a traceback as the message.

    >>> explain(KeyError("class `Distiller` in mmkd/distiller/distiller.py: no such tap"))
    'no such tap'
    >>> explain(IndexError())
    'IndexError'
    """
    if isinstance(problem, str):
        return problem
    text = str(problem.args[0]) if isinstance(problem, KeyError) and problem.args else str(problem)
    text = _REGISTRY.sub('', _of_worker(text)).strip().strip('"')
    return retell(text) or type(problem).__name__


def is_mistake(error: BaseException) -> bool:
    """Return whether an error says what to change, so that a traceback would only hide it.

    >>> is_mistake(ValueError('patch must be at least 1')), is_mistake(IndexError('out of range'))
    (True, False)
    >>> is_mistake(KeyError('feat')), is_mistake(IndexError('level 3 of 2. Mend: levels=…'))
    (False, True)
    """
    text = explain(error)
    sentence = ' ' in text  # a bare key or name says nothing without the line that wanted it
    return 'Mend: ' in text or (
        isinstance(error, MISTAKES) and sentence and not isinstance(error, RecursionError)
    )


def _of_worker(text: str) -> str:
    """Return the message at the end of a traceback that a data loader's worker handed on."""
    caught = _WORKER.match(text)
    if not caught:
        return text
    last = re.compile(rf'.*^(?:[\w.]+\.)?{caught[1]}: ', re.DOTALL | re.MULTILINE).match(text)
    return text[last.end() :].strip() if last else text
