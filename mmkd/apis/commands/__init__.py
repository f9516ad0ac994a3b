"""The commands of ``mmkd``: one module each, and the table that lists them without importing them.

A module has a docstring (its first line is the purpose, its last lines are ``Example::``), and
``add_arguments(parser)`` and ``main(args)``; where arguments may contradict each other,
``check_arguments(parser, args)`` too, which ends by ``parser.error``. Importing it and adding its
arguments takes no torch and nothing of OpenMMLab; ``main`` is called once every component is
registered. The flags of every command, such as ``--verbose``, are added to its own.
"""

import argparse
import inspect
from importlib import import_module
from textwrap import dedent, indent
from types import ModuleType
from typing import Any

from mmkd.apis.flags import Parser, common_flags

# group -> command -> purpose; the module has the command's name with underscores
GROUPS = {
    'Train, test, hand over': {
        'distill': 'From two configs and a checkpoint to a student, in one line.',
        'demo': 'The whole story on built-in data: a teacher, a student, and one that it teaches.',
        'train': 'Train by a config: a Distiller, or the plain baseline beside it.',
        'test': 'Test a checkpoint by a config; an ensemble by its config alone.',
        'export': 'Write a plain student (weights and config) out of a checkpoint of a Distiller.',
        'train-ensemble': 'Train the members of an ensemble: one config, several seeds.',
        'store': 'Run the teachers of a config once; trainings then read what they said.',
        'fit-vocabulary': 'Fit the vocabularies of a QUEST config beforehand: runs share them so.',
    },
    'Look into it': {
        'methods': 'List the methods by name, or tell one and what it makes of a pair.',
        'doctor': 'Check a config before training by it: members, taps, objectives, data, cost.',
        'benchmark': 'Measure the distillation step of a config beside its student and teacher.',
        'compare': 'Train a pair by several methods, and write a table of what each is worth.',
        'robustness': 'Test a checkpoint on clean, on corrupted, and on attacked images.',
        'report': 'Collect runs into a table: in Markdown, as a page for a browser, as a picture.',
    },
    'Shell and development': {
        'completion': 'Print the script by which a shell completes commands and options.',
        'metafiles': 'Write metafile.yml of every folder of configs, in a checkout.',
    },
}
PURPOSES = {name: purpose for group in GROUPS.values() for name, purpose in group.items()}
FORMER = {'export-student': 'export'}  # names until 0.2
LIGHT = ('completion',)  # run without any component, and have no flag of those that work


def module_of(name: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f'{__name__}.{name.replace("-", "_")}')


def help_of(module: ModuleType) -> dict[str, Any]:
    """Return what the help of a command says before and after its options."""
    text = inspect.cleandoc(module.__doc__ or '').replace('``', '')
    about, title, examples = text.partition('\n\nExample')
    if not title:
        return dict(description=text)
    plural, _, lines = examples.partition('::\n\n')
    return dict(description=about, epilog=f'example{plural}:\n{indent(dedent(lines), "  ")}')


def parser_of(name: str) -> Parser:
    """Return the parser of a command."""
    parser = Parser(prog=f'mmkd {name}', **help_of(module_of(name)))
    _add_arguments(parser, name)
    return parser


def parser_of_all() -> Parser:
    """Return one parser of all commands, of which completion is made."""
    whole = Parser(prog='mmkd')
    whole.add_argument(
        '-V', '--version', action='store_true', help='versions of mmkd and its stack'
    )
    commands: argparse._SubParsersAction = whole.add_subparsers(dest='command')
    for name, purpose in PURPOSES.items():
        parser = commands.add_parser(name, help=purpose, **help_of(module_of(name)))
        _add_arguments(parser, name)
    return whole


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    module_of(name).add_arguments(parser)
    if name not in LIGHT:
        common_flags(parser)
