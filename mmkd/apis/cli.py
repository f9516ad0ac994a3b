"""The one door of every tool: common flags, and how a command ends after a user's mistake."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmkd.utils.checkpoints import trust_checkpoints
from mmkd.utils.explain import explain, is_mistake
from mmkd.utils.terminal import log_files, warnings_to_file

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def common_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags that every tool has, and return the parser."""
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
    return parser


class CfgOptions(DictAction):
    """mmengine's ``key=value …``; what is none is refused by its name."""

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
        super().__call__(parser, namespace, values, option_string)


class _Trust(argparse.Action):
    """A flag that takes effect as it is read."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        trust_checkpoints()


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


def run(main: Callable[[], None]) -> None:
    """Run a tool, and end as a shell expects.

    A mistake ends as one paragraph, the last on stderr, with exit code 1; Ctrl-C with 130. What is
    no mistake but a bug keeps its traceback. The traceback of either is written to the run's log
    file.

    Args:
        main: The tool; it reads the command line.

    Raises:
        SystemExit: It ended early.
    """
    quiet = nullcontext() if '--verbose' in sys.argv else warnings_to_file()
    try:
        with quiet:
            main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        _write_traceback(error)
        if '--debug' in sys.argv or not is_mistake(error):
            traceback.print_exc()
        else:
            sys.stdout.flush()  # the message is the last that is seen
            print(f'{_rank()}error: {explain(error)}', file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _rank() -> str:
    """Return which process speaks, where there are several."""
    return f'rank {os.environ.get("RANK", 0)}: ' if int(os.environ.get('WORLD_SIZE', 1)) > 1 else ''


def _write_traceback(error: Exception) -> None:
    """Write the traceback to the log file of the run, if one was started."""
    if not MMLogger._instance_dict:
        return
    logger = MMLogger.get_current_instance()
    for file in log_files(logger):
        file.handle(
            logger.makeRecord(
                logger.name,
                logging.ERROR,
                __file__,
                0,
                'the run ended early',
                (),
                (type(error), error, error.__traceback__),
                'run',
            )
        )
