"""
Signed lists: which bytes of a check's list count.

Without a key in trusted.d, and without a list that was ever trusted, any list counts. Else the present one
counts when its signature is good; when it is not, that is a finding, and the last one that was good counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import inotify, signedlists
from mender_monitor_py.host.child import ask
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.host.signedlists import Copy
from mender_monitor_py.listtrust import Signed, distrust
from mender_monitor_py.model import OK, CheckId, Details, Observation, Subject
from mender_monitor_py.subsystems.base import Report
from mender_monitor_py.subsystems.findings import BASELINE

log = logging.getLogger(__name__)

_RETRY_S = 60.0
_EVENTS = (
    inotify.IN_ATTRIB
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
)
_NO_KEY = "a list was trusted once, but no key is left in trusted.d"


class Pending(UnknownError):
    """The signature is being checked; :class:`Trust` calls *again* when that is done."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What has to be checked: all that the verdict depends on."""

    keys: dict[str, bytes]
    signature: bytes
    data: bytes | None
    problem: str
    copy: Copy | None

    @property
    def identity(self) -> int:
        return hash((tuple(self.keys.items()), self.signature, self.data, self.problem, self.copy))


@dataclass(frozen=True, slots=True)
class _Verdict:
    """*reason* is why the list does not count; *copy_valid*: whether the one that was trusted last does."""

    identity: int
    reason: str = ""
    copy_valid: bool = False
    error: str = ""


class Trust:
    """The trust in the list *path* of *check*; *again* is called when it may be another than before."""

    def __init__(
        self, host: Host, report: Report, check: CheckId, path: Path, level: str, again: Callable[[], None]
    ) -> None:
        self._host = host
        self._report = report
        self._check = check
        self._path = path
        self._again = again
        self._verdict: _Verdict | None = None
        self._asked = 0
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self._watch: inotify.Watch | None = None
        name = f"Baseline of {check} is not trusted"
        self._bad = Observation(level, name, Subject(path.name, "baseline", "not trusted"), key=BASELINE)

    def in_force(self) -> bytes | None:
        """
        The list that counts; None: there is none.

        Raises UnknownError when it cannot be told, Pending while that is being found out.
        """
        self._watch_keys()
        paths = self._host.paths
        keys = signedlists.read_keys(paths)
        copy = signedlists.read_copy(paths, self._path.name)
        try:
            data, problem = read_list(self._path), ""
        except UnknownError as error:
            if not keys and copy is None:
                raise
            data, problem = None, str(error)
        question = _Question(keys, signedlists.read_signature(self._path), data, problem, copy)
        if not question.keys:
            return self._without_keys(question)
        if data is None and copy is None and not problem:
            self._good()  # there never was one
            return None
        verdict = self._verdict
        if verdict is None or verdict.identity != question.identity:
            self._find_out(question)
            raise Pending(f"the signature of {self._path} is being checked")
        if verdict.error:
            raise UnknownError(verdict.error)
        if not verdict.reason:
            self._good()
            return data
        if not verdict.copy_valid:
            copy = None
        self._distrust(verdict.reason, copy)
        if copy is None:
            raise UnknownError(f"{self._path} is not trusted: {verdict.reason}")
        return copy.data

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._task is not None:
            self._task.cancel()

    def _without_keys(self, question: _Question) -> bytes | None:
        if question.copy is None:
            self._good()
            return question.data
        self._distrust(_NO_KEY, question.copy)
        return question.copy.data

    def _good(self) -> None:
        self._told = ""
        self._report.note("trust", "")
        if self._report.is_bad(BASELINE):
            subject = replace(self._bad.subject, status="trusted")
            details = Details(f"{self._path} is trusted again")
            self._report.observe(replace(self._bad, level=OK, subject=subject, details=details))

    def _distrust(self, reason: str, copy: Copy | None) -> None:
        if copy is None:
            stays = "No list counts: there is none that was trusted before."
        else:
            serial = Signed(copy.data, valid=True).listing.serial
            stays = f"The list that was trusted last stays in force: serial {serial}."
        self._report.note("trust", f"the list is not trusted: {reason}")
        if self._told != reason:
            self._told = reason
            log.warning("%s: %s: %s", self._check, self._path, reason)
        self._report.observe(replace(self._bad, details=Details(f"{self._path}: {reason}\n{stays}")))

    def _find_out(self, question: _Question) -> None:
        if self._task is not None and not self._task.done():
            if self._asked == question.identity:
                return
            self._task.cancel()
        self._asked = question.identity
        self._task = asyncio.get_running_loop().create_task(self._check_signatures(question))

    async def _check_signatures(self, question: _Question) -> None:
        identity = question.identity
        try:
            answer = await _ask(question)
        except UnknownError as error:
            self._verdict = _Verdict(identity, error=f"signatures cannot be checked: {error}")
            self._again()
            await asyncio.sleep(_RETRY_S)
            self._verdict = None
            self._again()
            return
        for name, problem in answer["problems"].items():
            log.warning("%s: %s", self._host.paths.trusted_d / name, problem)
        found_signer, copy_signer = answer["signers"]
        copy = Signed(question.copy.data, bool(copy_signer)) if question.copy is not None else None
        kept = copy if copy is not None and copy.valid else None
        found = None if question.data is None else Signed(question.data, bool(found_signer))
        reason = question.problem or distrust(str(self._check), found, bool(question.signature), kept)
        if not reason and question.data is not None:
            new = Copy(question.signature, question.data)
            if new != question.copy and await asyncio.to_thread(self._keep, new):
                identity = replace(question, copy=new).identity
            log.info("%s: %s is signed by %s", self._check, self._path, found_signer)
        self._verdict = _Verdict(identity, reason, kept is not None)
        self._again()

    def _keep(self, copy: Copy) -> bool:
        try:
            signedlists.write_copy(self._host.paths, self._path.name, copy)
        except OSError as error:
            log.error("%s: the trusted list cannot be kept: %s", self._check, error)
            return False
        return True

    def _watch_keys(self) -> None:
        folder = self._host.paths.trusted_d
        if self._watch is not None and self._watch.active:
            return
        try:
            self._watch = self._host.inotify.watch(folder, _EVENTS, lambda _: self._again())
        except FileNotFoundError:
            self._watch = self._watch_for(folder)
        except OSError as error:
            log.error("%s is not watched, a new key counts from the next start: %s", folder, error)

    def _watch_for(self, folder: Path) -> inotify.Watch | None:
        """Watch for the making of *folder*."""

        def made(event: inotify.Event) -> None:
            if event.name == folder.name and self._watch is not None:
                self._watch.cancel()
                self._again()

        try:
            return self._host.inotify.watch(
                folder.parent, inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_ONLYDIR, made
            )
        except OSError as error:
            log.debug("%s is not watched: %s", folder.parent, error)
            return None


async def _ask(question: _Question) -> dict[str, Any]:
    """The signers of the list and of the copy; empty texts for none. Raises UnknownError."""
    copy = question.copy or Copy(b"", b"")
    data = question.data or b""
    request = {
        "keys": {name: pem.decode("ascii", "replace") for name, pem in question.keys.items()},
        "signed": [[question.signature.hex(), len(data)], [copy.signature.hex(), len(copy.data)]],
    }
    async with aclosing(ask("verifier", request, data + copy.data)) as answers:
        async for answer in answers:
            found: dict[str, Any] = answer
            return found
    raise UnknownError("the verifying process did not answer")
