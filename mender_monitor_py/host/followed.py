"""One path that is followed: the file that it leads to, those that it led to before, and who reads them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    Event,
    Inotify,
    Watch,
)
from mender_monitor_py.host.logfile import Cursor, LogFile, Position
from mender_monitor_py.host.route import places, siblings
from mender_monitor_py.host.stream import Stream

log = logging.getLogger(__name__)

_FOLDER_EVENTS = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR
_WRITTEN = IN_MODIFY | IN_CLOSE_WRITE
_FILE_EVENTS = _WRITTEN | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF

# Seconds without growth after which a file that was rotated away is let go, by what is known of its writer.
_PATIENCE = {True: 5.0, None: 60.0, False: 3600.0}
_DELETED_S = 60.0
_MOST_OLD_FILES = 8
_SUSPICION_S = 1.0
_HEAD = 1_024  # bytes at the begin of two files that tell a copy

# What logrotate(8) adds to the name of an old file, unless it compresses it.
_ROTATED = re.compile(r"[.-][0-9][0-9-]*", re.ASCII)


class Followed:
    """A path, and the streams of its lines."""

    def __init__(self, path: Path, inotify: Inotify, forget: Callable[[Path], None]) -> None:
        self.path = path
        self.problem = ""
        self._inotify = inotify
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._streams: list[Stream] = []
        self._current: LogFile | None = None
        self._newest: LogFile | None = None  # the current one, or the one that was it last
        self._old: dict[LogFile, float] = {}  # and when it was left, or has grown
        self._over: set[LogFile] = set()
        self._ends: dict[tuple[int, int], Position] = {}  # of files that are closed
        self._way: set[tuple[Path, str]] = set()
        self._folders: list[Watch] = []
        self._watches: dict[LogFile, Watch | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    def attach(self, positions: Sequence[Position]) -> Stream:
        """A stream from *positions* on: of the file, and before it of those that it was rotated from."""
        stream = Stream(self)
        self._streams.append(stream)
        for position in positions[:_MOST_OLD_FILES]:
            found = self._resumed(position)
            if found is not None and not stream.reads(found[0]):
                stream.cursors.append(found)
        current = self._current
        if current is None or stream.reads(current):
            return stream
        if stream.cursors:
            missed = self._missed_since(stream.cursors[-1][0])
            stream.cursors += [(file, Cursor()) for file in missed if not stream.reads(file)]
        elif positions and (cursor := current.resume(positions[-1])):
            # some file systems give a file another number each time they are mounted
            stream.cursors.append((current, cursor))
            return stream
        stream.cursors.append((current, Cursor()))
        return stream

    def detach(self, stream: Stream) -> None:
        """*stream* ends; with the last one all files are closed."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        if not self._streams:
            self.close()
            return
        for file in list(self._old):
            self._close_unless_read(file)

    def close(self) -> None:
        """End all streams."""
        if self._timer is not None:
            self._timer.cancel()
        for watch in self._folders:
            watch.cancel()
        for file in list(self._watches):
            self._close(file)
        for stream in self._streams:
            stream.cursors.clear()
        self._streams.clear()
        self._forget(self.path)

    def look(self) -> None:
        """See what the path leads to now, let go what is over, and wake the readers."""
        self.problem = ""
        self._watch_the_way()
        try:
            self._go()
        except (FileNotFoundError, NotADirectoryError):
            self._leave()
        except UnknownError as error:
            self._leave()
            self.problem = str(error)
        except OSError as error:
            self._leave()
            self.fail(error)
        self._let_go()
        self._wake()

    def second_look(self) -> None:
        """All is read; look again in a while if a file seemed to be written anew."""
        suspicious = [file for file in self._watches if file.suspicious]
        for file in suspicious:
            file.suspicious = False
            self._look_in(_SUSPICION_S)

    def fail(self, error: OSError) -> None:
        self.problem = f"{self.path}: {error.strerror}"

    def is_over(self, file: LogFile) -> bool:
        """Whether nobody writes to *file* any more."""
        return file in self._over

    def left(self, file: LogFile, cursor: Cursor) -> None:
        """A stream has read *file* to its end."""
        self._ends[file.identity] = file.position(cursor)
        while len(self._ends) > 2 * _MOST_OLD_FILES:
            del self._ends[next(iter(self._ends))]
        self._close_unless_read(file)

    def copy_of(self, position: Position) -> tuple[LogFile, Cursor] | None:
        """
        The copy that was made of the file before it was truncated, to be read on from *position*.

        logrotate(8), copytruncate: "Truncate the original log file to zero size in place after creating
        a copy".
        """
        if not position.offset:
            return None
        for path in self._rotated():
            found = self._opened(path, position)
            if found is not None and found[0].status().st_size > position.offset:
                return found
            if found is not None:
                self._close_unless_read(found[0])
        return None

    # The file that the path leads to, and the ones before it.

    def _go(self) -> None:
        status = self.path.stat()
        identity = (status.st_dev, status.st_ino)
        before = self._current
        if before is not None and before.identity == identity:
            # overlayfs: what was opened in the lower layer stays there when the file is copied up
            if status.st_size > before.status().st_size:
                before.reopen(self.path)
                self._watch(before)
            return
        file = next((old for old in self._old if old.identity == identity), None)
        files = []
        if file is None:
            file = LogFile(self.path)
            if self._newest is not None:
                files = self._missed_since(self._newest)
        files.append(file)
        self._leave()
        self._current = self._newest = file
        self._old.pop(file, None)
        self._over.discard(file)
        self._watch(file)
        for stream in self._streams:
            stream.cursors += [(new, self._begin(new)) for new in files if not stream.reads(new)]

    def _begin(self, file: LogFile) -> Cursor:
        """A file that comes back is read on from where it was left."""
        end = self._ends.get(file.identity)
        return (file.resume(end) if end is not None else None) or Cursor()

    def _leave(self) -> None:
        """The path leads to its file no more, but its writer may go on for a while."""
        file, self._current = self._current, None
        if file is not None:
            self._old[file] = self._loop.time()
            self._close_unless_read(file)

    def _let_go(self) -> None:
        now = self._loop.time()
        for age, (file, since) in enumerate(reversed(self._old.items())):
            patience = _PATIENCE[file.closed]
            if file.status().st_nlink == 0:
                patience = min(patience, _DELETED_S)
            left = since + patience - now
            if left <= 0 or age >= _MOST_OLD_FILES:
                self._over.add(file)
            elif left <= _DELETED_S:
                self._look_in(left)

    def _resumed(self, position: Position) -> tuple[LogFile, Cursor] | None:
        """The file that *position* is in, whatever its name is now, or a copy of it."""
        for file in self._watches:
            if file.identity[1] == position.inode and (cursor := file.resume(position)):
                return file, cursor
        for entry in siblings(self._real_path()):
            if entry.inode() == position.inode and (found := self._opened(Path(entry.path), position)):
                return found
        return self.copy_of(position)

    def _opened(self, path: Path, position: Position | None = None) -> tuple[LogFile, Cursor] | None:
        """An old file, at *position* if it has what was before that."""
        try:
            file = LogFile(path)
        except (OSError, UnknownError):  # it went, or is something else
            return None
        cursor = Cursor() if position is None else file.resume(position)
        known = next((other for other in self._watches if other.identity == file.identity), None)
        if known is None and cursor is not None:
            self._old[file] = self._loop.time()
            self._watch(file)
            return file, cursor
        file.close()
        if known is None or known not in self._old or cursor is None:
            return None
        return known, cursor

    def _missed_since(self, before: LogFile) -> list[LogFile]:
        """Files that were current after *before* and were rotated away unseen, the oldest first."""
        if before not in self._watches:
            return []
        since = before.status().st_mtime_ns
        head = before.pread(_HEAD, 0)
        known = set(self._watches)
        missed = []
        for path in self._rotated():
            found = self._opened(path)
            if found is None or found[0] in known:
                continue
            file = found[0]
            changed = file.status().st_mtime_ns
            is_copy = head and file.pread(_HEAD, 0) == head
            if changed >= since and not is_copy and file.identity not in self._ends:
                missed.append((changed, file))
            else:
                self._close(file)
        return [file for _, file in sorted(missed, key=lambda item: item[0])]

    def _rotated(self) -> Iterator[Path]:
        real = self._real_path()
        for entry in siblings(real):
            if entry.name.startswith(real.name) and _ROTATED.fullmatch(entry.name, len(real.name)):
                yield Path(entry.path)

    def _real_path(self) -> Path:
        return Path(*places(self.path)[-1])

    def _close_unless_read(self, file: LogFile) -> None:
        if file is not self._current and not any(stream.reads(file) for stream in self._streams):
            self._close(file)

    def _close(self, file: LogFile) -> None:
        watch = self._watches.pop(file)
        if watch is not None:
            watch.cancel()
        self._old.pop(file, None)
        self._over.discard(file)
        file.close()

    # What the kernel tells.

    def _watch(self, file: LogFile) -> None:
        before = self._watches.get(file)
        self._watches[file] = self._watched(
            file.by_descriptor, _FILE_EVENTS, lambda event: self._on_file(file, event)
        )
        if before is not None:
            before.cancel()

    def _watch_the_way(self) -> None:
        """Watch each name on the way. What appears before its folder is watched is met by a second round."""
        before: set[tuple[Path, str]] | None = None
        while (way := set(places(self.path))) != before:
            before = self._way = way
            watches = [self._watch_folder(folder) for folder in {folder for folder, _ in way}]
            for watch in self._folders:
                watch.cancel()
            self._folders = [watch for watch in watches if watch is not None]

    def _watch_folder(self, folder: Path) -> Watch | None:
        return self._watched(folder, _FOLDER_EVENTS, lambda event: self._in_folder(folder, event))

    def _watched(self, path: Path, mask: int, callback: Callable[[Event], None]) -> Watch | None:
        try:
            return self._inotify.watch(path, mask, callback)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s is looked at from time to time only: %s", self.path, error)
            return None

    def _in_folder(self, folder: Path, event: Event) -> None:
        if not event.name or (folder, event.name) in self._way:
            self._look_in(0)

    def _on_file(self, file: LogFile, event: Event) -> None:
        if not event.mask & _WRITTEN:
            self._look_in(0)
            return
        file.closed = bool(event.mask & IN_CLOSE_WRITE)
        file.changes += not file.closed
        if file in self._old:
            self._old[file] = self._loop.time()
            if file.closed:
                self._look_in(_PATIENCE[True])
        self._wake()

    def _wake(self) -> None:
        for stream in self._streams:
            stream.wake()

    def _look_in(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        self.look()
