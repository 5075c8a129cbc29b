"""Files and links that come to be together: all are prepared under hidden names, and then renamed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from mender_monitor_py.host.durable import sync_folder

_SUFFIX = ".staged"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StagedFiles:
    """
    A context manager. What :meth:`file` and :meth:`link` prepare is on the disk, and nobody sees it.

    :meth:`commit` makes it visible, in their order. No signal but SIGKILL ends it half-way; an error takes
    back what was done. Without a commit nothing stays, nor when SIGINT, SIGTERM or SIGHUP ends the program:
    within, they raise KeyboardInterrupt or SystemExit. All methods raise OSError. Only in the main thread.
    """

    def __init__(self) -> None:
        self._staged: dict[Path, Path] = {}
        self._ending: list[int] = []

    def __enter__(self) -> Self:
        # By default these two end the program at once, and nothing is tidied up.
        self._ending = [
            number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
        ]
        for number in self._ending:
            signal.signal(number, _end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hidden in self._staged.values():
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
        for number in self._ending:
            signal.signal(number, signal.SIG_DFL)

    def file(self, path: Path, data: bytes) -> None:
        """A file *path* with *data*, that everybody may read."""
        hidden = self._hidden(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(hidden, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def link(self, path: Path, target: Path) -> None:
        """A symbolic link *path* that leads to *target*."""
        self._hidden(path).symlink_to(target)

    def commit(self) -> None:
        """Make all of it visible."""
        before = {path: _saved(path) for path in self._staged}
        done: list[Path] = []
        with _undisturbed():
            try:
                for path, hidden in self._staged.items():
                    hidden.replace(path)
                    done.append(path)
                for folder in {path.parent for path in self._staged}:
                    sync_folder(folder)
            except OSError:
                for path in reversed(done):
                    _restore(path, before[path])
                raise
        self._staged.clear()

    def _hidden(self, path: Path) -> Path:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}{_SUFFIX}")
        hidden.unlink(missing_ok=True)  # of a run that was killed
        self._staged[path] = hidden
        return hidden


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)  # as a shell tells it


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The signals that would end us wait until it is over. Only in the main thread."""
    # Not blocked: a blocked signal goes to another thread, and Python calls the handler here all the same.
    waiting: set[int] = set()
    before = {number: signal.signal(number, lambda number, _: waiting.add(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in waiting:
            signal.raise_signal(came)


def _saved(path: Path) -> bytes | Path | None:
    """The content of a file, the target of a link, or None."""
    try:
        return path.readlink() if path.is_symlink() else path.read_bytes()
    except FileNotFoundError:
        return None


def _restore(path: Path, saved: bytes | Path | None) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if isinstance(saved, Path):
            path.symlink_to(saved)
        elif saved is not None:
            path.write_bytes(saved)
