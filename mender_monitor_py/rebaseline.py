"""
Brings the lists of the checks up to what a deployment changed, and to nothing else: see docs/deployments.md.

After one that failed nothing of it counts; but what was put back is another file with the same content.

    python -P rebaseline.py EVIDENCE

EVIDENCE is a file of JSON: deployed.Evidence; *device*, the root file system before; *boottime*, when the
deployment began by CLOCK_BOOTTIME (null: in another boot). The watcher has it run outside its sandbox, which
may write no list. Prints a line of JSON for each file that is run still though the deployment has replaced
it, and for each list, for the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from mender_monitor_py import baseline
from mender_monitor_py.alertstate import decode
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl.lists import Kept
from mender_monitor_py.deployed import (
    SLACK_S,
    SPECIAL,
    Content,
    Evidence,
    Packaged,
    Why,
    contents,
    packaged_md5,
)
from mender_monitor_py.errors import MonitorError, UnknownError
from mender_monitor_py.host.birthtime import birth_time
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.contents import entry_of, read_content
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.lists import read_list
from mender_monitor_py.host.procfs import Procfs
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.host.replaced import Orphan, orphans
from mender_monitor_py.model import CheckId
from mender_monitor_py.outbox import Limits, Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.records import happened
from mender_monitor_py.replacedfiles import MOST, ReplacedFile
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.expected import NOTHING_STATED, Baselined, Stated

DPKG = "var/lib/dpkg"
_OF_CONTENT = ("integrity", "setuid")  # the subsystems that tell what is in a file
MOST_TOLD = 50  # of a list's entries; an image may change all of them
_MOST_OF_ROW = 512
_UNFORESEEN = (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, ValueError)


class Deployed:
    """Which files of this device a deployment changed, after *evidence*."""

    def __init__(self, evidence: Evidence, paths: Paths) -> None:
        self._evidence = evidence
        self._packages = list(_changed_packages(paths.root / DPKG, evidence))
        self._installed = _modified(paths.root / DPKG / "status")
        self._known: dict[str, tuple[Why, Content | None]] = {}

    def explains(self, path: str, stated: Stated = NOTHING_STATED) -> Why:
        """
        Why the file at *path* is the deployment's; or not, or not as it was *stated* to be.

        Who may write to a folder on the way could show one file to who makes the row, and another one here.
        """
        if path not in self._known:
            self._known[path] = self._judge(path)
        why, content = self._known[path]
        if content is None or stated.sha256 not in ("", content.sha256):
            return Why()
        return why if not stated.mode & SPECIAL & ~content.mode else Why()

    def put(self, path: str) -> bool:
        """
        Whether the file at *path* was made while the deployment installed.

        Where the file system does not tell: whether it was changed meanwhile, as chmod(2) does, too.
        """
        try:
            made = self._evidence.made(birth_time(path))
            return self._evidence.within(Path(path).stat().st_ctime) if made is None else made
        except OSError:
            return False

    def saw_removal(self, orphan: Orphan) -> bool:
        """Whether the file of *orphan* was removed while the deployment installed."""
        return self._evidence.within(orphan.removed)

    def replaced(self, pid: int, path: str) -> bool:
        """
        Whether the deployment has put a file to *path*, where that was which *pid* runs, or removed that one.

        Or a rollback has put there what *pid* runs.
        """
        if not os.path.lexists(path):
            return bool(self.explains_absence(path))
        return bool(self.explains(path).words) or (self.put(path) and _same_content(pid, path))

    def explains_absence(self, path: str) -> str:
        """Why nothing is at *path* any more, when that is the deployment's; empty: it is not."""
        folder = Path(path).parent
        try:
            while not folder.is_dir():
                folder = folder.parent
            status = folder.stat()
        except OSError:  # gone this moment, or not to be read
            return ""
        return self._evidence.explains_absence(entry_of(path), status.st_ctime, str(status.st_dev))

    def _judge(self, path: str) -> tuple[Why, Content | None]:
        try:
            content = read_content(path)
        except OSError:
            return Why(), None
        return self._evidence.explains(path, content, self._packaged(path)), content

    def _packaged(self, path: str) -> Packaged | None:
        real = os.path.realpath(path)
        # dpkg knows files by the names in the package; /bin and /lib are links to /usr on most systems.
        names = frozenset({path, real, real.removeprefix("/usr")})
        found = (packaged_md5(files, sums, names) for files, sums in self._packages)
        md5 = next(filter(None, found), "")
        return Packaged(md5, self._installed) if md5 else None


def main() -> int:
    """The program."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease, when somebody opens the file that very moment
    paths = Paths.from_environment()
    given = json.loads(Path(sys.argv[1]).read_text())
    device_before, boottime = given.pop("device"), given.pop("boottime")
    settings = load_settings(paths)[0]
    evidence = Evidence.from_json(given)
    try:
        evidence = _with_findings(evidence, paths, settings)
    except MonitorError as error:
        print(json.dumps({"unread": str(error)}), flush=True)  # noqa: T201 - this is its answer
        evidence = replace(evidence, written=frozenset(), modified=frozenset())
    deployed, catalog = Deployed(evidence, paths), Catalog(paths, settings)
    if boottime is not None:
        for file in _replaced(catalog, paths, deployed, boottime):
            print(json.dumps({"replaced": file}), flush=True)  # noqa: T201 - this is its answer
    for check in catalog.enabled():
        try:
            told = _follow(check, catalog, paths, deployed, evidence, device_before)
        except MonitorError as error:
            told = {"check": str(check), "problem": str(error)}
        except _UNFORESEEN as error:
            told = {"check": str(check), "problem": f"{type(error).__name__}: {error}"}  # the others go on
        if told:
            print(json.dumps(told), flush=True)  # noqa: T201 - this is its answer
    return 0


def _with_findings(evidence: Evidence, paths: Paths, settings: Settings) -> Evidence:
    """*evidence*, with what was found before. Raises OutboxError."""
    if not paths.outbox.exists():
        return evidence
    clock = Clock()
    with closing(Outbox(paths.outbox, Limits.of(settings), clock)) as outbox:
        states = [text for (check, _), text in outbox.states().items() if check.subsystem in _OF_CONTENT]
    found: set[str] = set()
    for text in states:
        with suppress(ValueError):  # of a newer version
            state, saved = decode(text)
            since = replace(saved, boottime=state.since, wall=saved.wall - (saved.boottime - state.since))
            if state.bad and state.last and happened(since, clock.now()) < evidence.began - SLACK_S:
                found |= contents(state.last.details.description)
    return replace(evidence, found=frozenset(found))


def _replaced(catalog: Catalog, paths: Paths, deployed: Deployed, began: float) -> list[ReplacedFile]:
    """
    What runs since before the deployment *began* from files that it has replaced.

    Not what a list did not expect even then: that was a finding, and stays one. So it is asked before the
    lists follow.
    """
    found = [
        (orphan.pid, orphan.file._replace(path=path))
        for orphan in orphans(Procfs())
        if orphan.started < began and deployed.saw_removal(orphan)
        for path in orphan.paths
    ]
    for name in catalog.enabled() if found else ():
        with suppress(MonitorError, *_UNFORESEEN):  # that is told when its list is to follow
            unexpected = asyncio.run(_unexpected(name, catalog, paths, deployed, found))
            found = [one for one in found if one not in unexpected]
    files = {file.identity: file for pid, file in found if deployed.replaced(pid, file.path)}
    return list(files.values())[:MOST]


async def _unexpected(
    name: CheckId,
    catalog: Catalog,
    paths: Paths,
    deployed: Deployed,
    running: list[tuple[int, ReplacedFile]],
) -> set[tuple[int, ReplacedFile]]:
    """Which of *running*, a process and its file, the list of a check did not expect. Raises MonitorError."""
    check = catalog.build(catalog.load_now(name))
    if not isinstance(check, Baselined):
        return set()
    kept = Kept(check, paths)
    if kept.data is not None and deployed.put(str(kept.path)):
        return set()  # the artifact has brought it: what it said before is not known
    listed = kept.listing().entries if kept.data is not None else ()
    entries = [*listed, *map(check.led, check.inline)]
    if not entries:
        return set()
    found = set()
    try:
        for pid, file in running:
            expected = False
            with suppress(UnknownError, OSError):  # what cannot be read is taken for none that was expected
                expected = await check.expected_running(kept.host, entries, pid, file.path)
            if not expected:
                found.add((pid, file))
    finally:
        await kept.host.aclose()
    return found


def _follow(
    name: CheckId,
    catalog: Catalog,
    paths: Paths,
    deployed: Deployed,
    evidence: Evidence,
    device_before: str,
) -> dict[str, Any] | None:
    """Bring one list up to date; what to tell of it. Raises MonitorError."""
    check = catalog.build(catalog.load_now(name))
    if not isinstance(check, Baselined) or not check.follows_deployments:
        return None
    kept = Kept(check, paths)
    if kept.data is None:
        return None
    if kept.keys:
        return {"check": str(name), "problem": "the list is signed: the artifact has to bring the new one"}
    if evidence.image and _device(kept.path) == evidence.image.device != device_before:
        return {"check": str(name), "problem": "the list came with the new root file system"}
    entries = [*kept.listing().entries, *map(check.led, check.inline)]
    since = 0.0 if evidence.image else evidence.began - SLACK_S
    things = asyncio.run(_survey(kept.host, check, entries, since))
    about = kept.about(entries)
    unexpected = [thing for thing in things if not any(check.allows(entry, thing) for entry in about(thing))]
    rows = [
        thing.row for thing in unexpected if _is_explained(check, kept.host, thing, about(thing), deployed)
    ]
    gone = [path for path in check.gone(entries) if deployed.explains_absence(path)]
    absent = sorted(map(baseline.quote, gone))
    data = baseline.followed(
        str(name),
        kept.data,
        rows,
        kept.subject_of,
        kept.trusted_serial,
        check.order,
        gone=frozenset(absent),
    )
    if data == kept.data:
        return None
    if read_list(kept.path) != kept.data:
        return {"check": str(name), "problem": "somebody else has changed the list meanwhile"}
    kept.write(data)
    told = [row[:_MOST_OF_ROW] for row in (*rows, *(f"{path} is gone" for path in absent))]
    return {"check": str(name), "entries": len(told), "told": told[:MOST_TOLD]}


def _is_explained(
    check: Baselined[Any, Any], host: Host, thing: Any, about: Sequence[Any], deployed: Deployed
) -> bool:
    """Whether *thing* is the deployment's, which the entries *about* it do not expect."""
    file, stated = check.file_of(host, thing), check.stated(thing)
    if any(check.same_again(entry, thing) for entry in about) and deployed.put(file):
        return True
    why = deployed.explains(file, stated)
    if not why.words or (why.whole and (why.capable or not stated.capable)):
        return bool(why.words)
    # Who set the mode and the owner of a file that was there before is not known: they have to be expected.
    if about:
        return any(_in_content_alone(check.differences(entry, thing)) for entry in about)
    return not (stated.mode & SPECIAL or stated.capable)


def _in_content_alone(differences: Iterable[str]) -> bool:
    return all(text.startswith(("sha256: ", "inode: ")) for text in differences)


async def _survey(host: Host, check: Baselined[Any, Any], entries: list[Any], since: float) -> list[Any]:
    try:
        return await check.survey_since(host, entries, since)
    finally:
        await host.aclose()


def _same_content(pid: int, path: str) -> bool:
    """Whether *pid* runs what is at *path* now, in another file."""
    try:
        with open_regular(path) as there, open_regular(f"/proc/{pid}/exe") as running:
            return _digest(there) == _digest(running)
    except OSError:
        return False


def _digest(file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


def _changed_packages(dpkg: Path, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """The lists of files and of MD5 sums of the packages that dpkg installed meanwhile."""
    for files in sorted(dpkg.glob("info/*.list")):
        with suppress(OSError):
            if _is_new(files, evidence):
                yield _text(files), _text(files.with_suffix(".md5sums"))


def _is_new(file: Path, evidence: Evidence) -> bool:
    """Whether *file*, which is written anew whenever it changes, was so meanwhile. Raises OSError."""
    made = evidence.made(birth_time(str(file)))
    return evidence.within(file.stat().st_mtime) if made is None else made


def _text(path: Path) -> str:
    with open_regular(path) as file:
        return os.fsdecode(file.read())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _device(path: Path) -> str:
    return str(path.stat().st_dev)


if __name__ == "__main__":
    sys.exit(main())
