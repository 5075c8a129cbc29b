"""
The payload process: reads the files of an artifact for the watcher, and what is in them.

Its standard input is one line of JSON, its standard output a line for each regular file: its SHA-256, its
name without folders, and its mode. The files of a tar archive count, compressed or not, as those of an update
module for folders are.

    {"files": [["/proc/123/fd/17", "update.tar"]]}
        ["9f86d081…", "update.tar", 420] …
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import resource
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

_CHUNK = 1024 * 1024
_MAX_NAME = 255  # NAME_MAX of Linux: no file can be called so, and the watcher keeps the names
MAX_BYTES = 4 * 1024**3  # an archive that is made to take for ever ends there
MAX_FILES = 20_000
# The headers of an archive may be of any size, and are read in one piece. This runs in the watcher's service,
# which has 96 MiB. It is enough for what xz -8 has packed; -9 needs more, and is not looked into.
MAX_MEMORY = 48 * 1024**2
_DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, MemoryError)


class Reader:
    """Reads files, within bounds that count for all of them together."""

    def __init__(self) -> None:
        self._bytes = self._files = 0

    @property
    def _full(self) -> bool:
        return self._bytes >= MAX_BYTES or self._files >= MAX_FILES

    def read(self, path: str, name: str) -> Iterator[tuple[str, str, int]]:
        """SHA-256, name and mode of the file *path*, which is called *name*, and of all in it."""
        with open(path, "rb") as file:  # noqa: PTH123 - one of /proc, which pathlib would not open better
            yield self._digest(file), name, os.fstat(file.fileno()).st_mode & 0o7777
            file.seek(0)
            with suppress(*_DAMAGE), tarfile.open(fileobj=_unpacked(file), mode="r|") as archive:
                for member in archive:
                    if self._full:
                        return
                    content = archive.extractfile(member) if member.isreg() else None
                    name = member.name.rpartition("/")[2]
                    if content is not None and len(os.fsencode(name)) <= _MAX_NAME:
                        yield self._digest(content), name, member.mode & 0o7777

    def _digest(self, file: IO[bytes]) -> str:
        self._files += 1
        digest = hashlib.sha256()
        while self._bytes < MAX_BYTES and (data := file.read(_CHUNK)):
            self._bytes += len(data)
            digest.update(data)
        return digest.hexdigest()


def _unpacked(file: BufferedReader) -> IO[bytes]:
    """
    What *file* is when it is decompressed, in pieces.

    tarfile would do it, too, but at once what it has read: ten KiB may be a hundred MiB of zeros.
    """
    begin = file.peek(6)[:6]
    if begin.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if begin.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if begin.startswith((b"\xfd7zXZ\0", b"]\0\0\x80")):
        return lzma.LZMAFile(file)
    return file


def main() -> int:
    """The program: one request."""
    request = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    with suppress(AttributeError, OSError):
        os.nice(10)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this than the watcher
    reader = Reader()
    for path, name in request["files"]:
        with suppress(OSError):
            for found in reader.read(path, name):
                sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
