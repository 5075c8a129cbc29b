"""Files of shell variables: plain ones are parsed, real shell is read by bash itself."""

from __future__ import annotations

import os
import re
import selectors
import signal
import string
import threading
import time
from contextlib import suppress
from pathlib import Path

from mender_monitor_py.definition import Parsed, decode, is_shell_name, parse, probable_lines
from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host import trusted

TIME_LIMIT = 5.0  # seconds
MAX_OUTPUT = 1024 * 1024  # bytes of names and values
_MAX_COMPLAINT = 2048  # bytes of standard error
_CHUNK = 65_536  # what a pipe holds
_MAX_KEPT = 512
_FRESH = 0.1  # seconds in which a file system may give a second change the same mtime

_BASH = "/bin/bash"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_DESCRIPTOR = 97  # one that scripts are not likely to use
# The environment is empty, so every variable that is not the shell's own is the file's. An array stands for
# its first element, as $NAME does. The trap is for files that exit; set again for those that set their own.
_SCRIPT = f"""
__mender_monitor_tell() {{
    set +euxv
    local __mender_monitor_name
    for __mender_monitor_name in {" ".join(f'"${{!{c}@}}"' for c in string.ascii_letters + "_")}; do
        if [[ -n ${{!__mender_monitor_name+set}} ]]; then
            builtin printf '%s\\0%s\\0' "$__mender_monitor_name" "${{!__mender_monitor_name}}"
        fi
    done >&{_DESCRIPTOR}
    builtin printf '\\0=\\0' >&{_DESCRIPTOR}
}}
__mender_monitor_file=$1
cd -- "$2" || cd /
set --
trap __mender_monitor_tell EXIT
. "$__mender_monitor_file"
trap __mender_monitor_tell EXIT
exit 0
"""
_END = b"\0=\0"  # no name is empty, and none is "="


class ShellFiles:
    """
    Reads files of variables; what bash made of one is kept until the file changes.

    Shell in the files runs in *folder*, if that exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[trusted.Version, Parsed | DefinitionError]] = {}

    async def read(self, path: Path) -> Parsed:
        """The variables that *path* sets. Raises DefinitionError with file, reason and, if known, line."""
        reading = self._quickly(path)
        if isinstance(reading, Parsed):
            return reading
        import asyncio  # a large part of what a short program would load

        try:
            return self._keep(reading, await asyncio.to_thread(reading.run))
        except asyncio.CancelledError:
            reading.kill()
            raise

    def read_now(self, path: Path) -> Parsed:
        """The same, for programs without an event loop; it may take up to TIME_LIMIT."""
        reading = self._quickly(path)
        return reading if isinstance(reading, Parsed) else self._keep(reading, reading.run())

    def _quickly(self, path: Path) -> Parsed | _Reading:
        data, version = trusted.read(path)
        parsed = parse(data)
        if parsed is not None:
            return parsed
        before, outcome = self._known.get(path, (None, None))
        if outcome is not None and before == version:
            return _given(outcome)
        return _Reading(path, data, version, self._folder)

    def _keep(self, reading: _Reading, outcome: Parsed | DefinitionError) -> Parsed:
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        if abs(time.time() - reading.version.mtime / 1e9) > _FRESH:
            self._known[reading.path] = (reading.version, outcome)
        return _given(outcome)


def _given(outcome: Parsed | DefinitionError) -> Parsed:
    if isinstance(outcome, DefinitionError):
        raise outcome.with_traceback(None)
    return outcome


class _Reading:
    """One bash that reads one file."""

    def __init__(self, path: Path, data: bytes, version: trusted.Version, folder: Path) -> None:
        self.path = path
        self.version = version
        self._data = data
        self._folder = folder
        self._pid = 0
        self._unwanted = False
        self._lock = threading.Lock()
        self._output = bytearray()
        self._complaint = bytearray()

    def run(self) -> Parsed | DefinitionError:
        """What bash makes of the file; blocks for TIME_LIMIT at most."""
        deadline = time.monotonic() + TIME_LIMIT
        try:
            with self._lock:
                if self._unwanted:
                    return self._error("is not read any more")
                out, err = self._start()
        except OSError as error:
            return self._error(
                f"holds more than plain assignments, and {_BASH} cannot be run: {error.strerror}"
            )
        try:
            problem = self._listen(out, err, deadline)
        finally:
            os.close(out)
            os.close(err)
            self.kill()
            with self._lock:
                os.waitpid(self._pid, 0)
                self._pid = 0
        return self._outcome(problem)

    def kill(self) -> None:
        """End bash and what it has started, or keep it from starting."""
        with self._lock:
            self._unwanted = True
            if self._pid:
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)

    def _start(self) -> tuple[int, int]:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        os.set_blocking(err, False)
        try:
            self._pid = os.posix_spawn(
                _BASH,
                ["bash", "-c", _SCRIPT, "bash", str(self.path), str(self._folder)],
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, err_end, 2),
                    (os.POSIX_SPAWN_DUP2, out_end, _DESCRIPTOR),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGTERM],
            )
        except OSError:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        return out, err

    def _listen(self, out: int, err: int, deadline: float) -> str:
        """Read until bash has told everything; what went wrong, or nothing."""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            selector.register(err, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if key.fd == err:
                        if not self._complain(err):
                            selector.unregister(err)
                    elif not (chunk := os.read(out, _CHUNK)):
                        return "bash ended before it had read it to its end"
                    else:
                        self._output += chunk
                        if self._output == _END or self._output.endswith(b"\0" + _END):
                            # Written before, but not yet told by the selector.
                            self._complain(err)
                            return ""
                        if len(self._output) > MAX_OUTPUT:
                            return f"sets variables of more than {MAX_OUTPUT // 1024} KiB"
        return f"bash has not read it within {TIME_LIMIT:g} s"

    def _complain(self, err: int) -> bool:
        """Keep the end of standard error, where a syntax error is. False: nothing more can come."""
        try:
            chunk = os.read(err, _CHUNK)
        except BlockingIOError:
            return True
        self._complaint = (self._complaint + chunk)[-_MAX_COMPLAINT:]
        return bool(chunk)

    def _outcome(self, problem: str) -> Parsed | DefinitionError:
        complaint = decode(bytes(self._complaint)).strip()
        found = re.search(
            rf"{re.escape(str(self.path))}: line (\d+): (syntax error.*|unexpected EOF.*)", complaint
        )
        if found is not None:
            return self._error(found[2], int(found[1]))
        if problem:
            return self._error(problem)
        fields = decode(bytes(self._output.removesuffix(_END))).split("\0")
        values = dict(zip(fields[::2], fields[1::2], strict=False))
        values = {name: value for name, value in values.items() if not is_shell_name(name)}
        lines = {name: line for name, line in probable_lines(self._data).items() if name in values}
        return Parsed(values, lines, complaint)

    def _error(self, reason: str, line: int = 0) -> DefinitionError:
        return DefinitionError(reason, file=str(self.path), line=line)
