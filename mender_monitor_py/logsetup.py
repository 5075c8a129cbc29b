"""Where the daemon's log goes: the journal by way of standard error, or a file that cannot grow for ever."""

from __future__ import annotations

import logging
import os
import sys

_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
}
_MAX_FILE = 1024 * 1024
# The syslog levels that sd-daemon(3) reads at the start of a line.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class OneLine(logging.Formatter):
    """Text that others wrote may be part of a message: control characters in it stay harmless."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


class _Journal(OneLine):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


def set_up(level: str, file: str) -> None:
    """
    Log from *level* on, to *file* or (when it is empty) to standard error.

    Raises OSError when the file cannot be written.
    """
    handler: logging.Handler
    if file:
        from logging.handlers import RotatingFileHandler

        handler = RotatingFileHandler(file, maxBytes=_MAX_FILE, backupCount=1, encoding="utf-8")
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        journal = "JOURNAL_STREAM" in os.environ
        handler.setFormatter(_Journal("%(message)s") if journal else OneLine("%(levelname)s: %(message)s"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(_LEVELS.get(level.upper(), logging.INFO))
