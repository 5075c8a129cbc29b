"""monit(1), the peer that watches processes and files by looking at them in turns."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def is_installed() -> bool:
    return shutil.which("monit") is not None


def file_check(number: int, path: Path) -> str:
    """A file's content, rights and owner: what our integrity check compares."""
    return f'check file f{number} with path "{path}"\n  if changed checksum then alert\n'


def process_check(path: Path, touched: Path) -> str:
    """The process of the executable *path*; when it is another, the file *touched* is made."""
    return f'check process app matching "^{path} "\n  if changed pid then exec "/usr/bin/touch {touched}"\n'


@contextmanager
def running(folder: Path, cycle: int, checks: Iterable[str]) -> Iterator[int]:
    """It looks each *cycle* seconds; gives its pid."""
    folder.mkdir()
    settings = [f"set daemon {cycle}", f"set log {folder}/log"]
    settings += [f"set {name}file {folder}/{name}" for name in ("pid", "id", "state")]
    file = folder / "monitrc"
    file.write_text("\n".join([*settings, *checks]) + "\n")
    file.chmod(0o600)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(["monit", "-I", "-c", str(file)], stdout=out, stderr=out)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
