"""Print the script by which a shell completes commands and options.

Install it once, and again after an update of mmkd:

* bash: mmkd completion bash > ~/.local/share/bash-completion/completions/mmkd
* zsh: mmkd completion zsh > ~/.zfunc/_mmkd, where ~/.zshrc says
  "fpath+=~/.zfunc; autoload -Uz compinit; compinit"
* tcsh: mmkd completion tcsh >> ~/.tcshrc

Example (for this bash alone)::

    eval "$(mmkd completion bash)"
"""

import argparse
import os
import sys
from typing import Any

SHELLS = ('bash', 'zsh', 'tcsh')
FOLDERS = ('--work-dir', '--show-dir', '--out')
FILES = ('--json', '--into', '--html', '--png', '--image', '--images-config')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument('shell', choices=SHELLS, help='the shell that the script is for')


def main(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from mmkd.apis.commands import parser_of_all

    whole = parser_of_all()
    for parser in _parsers(whole):
        actions: Any = parser._actions  # that one has `complete` is shtab's own idea
        for action in actions:
            kind = _completes(action)
            if kind is not None:
                action.complete = dict(file=shtab.FILE, folder=shtab.DIRECTORY)[kind]
    try:
        print(shtab.complete(whole, args.shell), flush=True)
    except BrokenPipeError:  # such as `| head`; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _completes(action: argparse.Action) -> str | None:
    """Return 'file' or 'folder' for an argument that takes one: every positional one does."""
    if not action.option_strings:
        return None if action.choices else 'file'
    name = action.option_strings[0]
    return 'folder' if name in FOLDERS else 'file' if name in FILES else None


def _parsers(whole: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers of the commands."""
    (commands,) = (one for one in whole._actions if isinstance(one, argparse._SubParsersAction))
    return list(commands.choices.values())
