"""How a command ends: after its work, after a mistake of the user's, after Ctrl-C, after a bug."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext

from mmengine.logging import MMLogger

from mmkd.utils.explain import explain, is_mistake
from mmkd.utils.terminal import log_files, warnings_to_file

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run(main: Callable[[], int | None], verbose: bool = False, debug: bool = False) -> int:
    """Run a command, and return the exit code that a shell expects.

    A mistake ends as one paragraph, the last on stderr, with exit code 1; Ctrl-C with 130. What is
    no mistake but a bug keeps its traceback. The traceback of either is written to the run's log
    file.

    Args:
        main: What it does; returns an exit code, or None for 0.
        verbose: Whether libraries' warnings go to the terminal.
        debug: Whether a mistake keeps its traceback.

    Raises:
        SystemExit: It ended early.
    """
    quiet = nullcontext() if verbose else warnings_to_file()
    try:
        with quiet:
            return main() or 0
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        _write_traceback(error)
        if debug or not is_mistake(error):
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
