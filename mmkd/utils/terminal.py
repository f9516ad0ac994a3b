"""What a tool prints: what its user wants to read; all else goes to the run's log file alone."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

from mmengine.logging import MMLogger

# Pages and lines of the libraries that a user can do nothing about, by how they begin or by what
# they say.
_NOT_FOR_USERS = re.compile(
    r'\s*-{20,}\nSystem environment:|Config:\n|Hooks will be executed in the following order|'
    r'Exp name: |The prefix is not set in metric class|Attribute `_fully_initialized`|'
    r'Distributed training is not used, all SyncBatchNorm|"HardDiskBackend" is the alias|'
    r'.*\bdeprecated\b',
    re.IGNORECASE,
)
_WARNINGS = 'py.warnings'  # where logging.captureWarnings sends them


class ForUsers(logging.Filter):
    """Lets through what is written for users.

    >>> def shown(text):
    ...     return ForUsers().filter(logging.makeLogRecord(dict(msg=text)))
    >>> shown('Hooks will be executed in the following order:…'), shown('effective batch: 2 x 1')
    (False, True)
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the terminal shows a record."""
        return not _NOT_FOR_USERS.match(record.getMessage())


def log_files(logger: logging.Logger) -> list[logging.Handler]:
    """Return the handlers that write a logger's files."""
    return [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]


def quieten(logger: MMLogger) -> None:
    """Keep what is not for users from the terminal; the log file gets it, and Python's warnings."""
    files = log_files(logger)
    for handler in logger.handlers:
        if handler not in files and not any(isinstance(one, ForUsers) for one in handler.filters):
            handler.addFilter(ForUsers())
    for handler in logging.getLogger(_WARNINGS).handlers:
        if isinstance(handler, MemoryHandler) and files:
            handler.setTarget(_Forward(files))
            handler.flush()


class _Forward(logging.Handler):
    """Hands records on to the files of the newest run."""

    def __init__(self, files: list[logging.Handler]) -> None:
        super().__init__()
        self.files = files

    def emit(self, record: logging.LogRecord) -> None:
        # mmengine's handlers drop a warning whose template came before, and Python 3.10 gives '%s'
        # to all of them.
        record.msg, record.args = record.getMessage(), ()
        for file in self.files:
            file.handle(record)


@contextmanager
def warnings_to_file() -> Iterator[None]:
    """Hold Python's warnings back from the terminal; the log file gets them once there is one."""
    logger = logging.getLogger(_WARNINGS)
    held = MemoryHandler(capacity=1000, flushLevel=logging.WARNING, flushOnClose=False)
    propagate = logger.propagate
    logger.addHandler(held)
    logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(held)
        logger.propagate = propagate
