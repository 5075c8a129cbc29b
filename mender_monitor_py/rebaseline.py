"""
Brings the lists of the checks up to what a deployment changed, and to nothing else: see docs/deployments.md.

After one that failed nothing of it counts; but what was put back is another file with the same content.

    python -P rebaseline.py EVIDENCE

EVIDENCE is a file of JSON: deployed.Evidence, and the *device* of the root file system before. The watcher
has it run outside its sandbox, which may write no list. Prints a line of JSON for each list, for the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mender_monitor_py import baseline
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.configuration import load_settings
from mender_monitor_py.ctl.lists import Kept
from mender_monitor_py.deployed import SLACK_S, Content, Evidence, Packaged, packaged_md5
from mender_monitor_py.errors import MonitorError
from mender_monitor_py.host.host import Host
from mender_monitor_py.host.regularfile import open_regular
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.subsystems.expected import Baselined

DPKG = "var/lib/dpkg"
MOST_TOLD = 50  # of a list's entries; an image may change all of them
_MOST_OF_ROW = 512
_CHUNK = 1024 * 1024


class Deployed:
    """Which files of this device a deployment changed, after *evidence*."""

    def __init__(self, evidence: Evidence, paths: Paths) -> None:
        self._evidence = evidence
        self._packages = list(_changed_packages(paths.root / DPKG, evidence))
        self._installed = _modified(paths.root / DPKG / "status")
        self._known: dict[str, str] = {}

    def explains(self, path: str) -> str:
        """Why the file at *path* is the deployment's; empty: it is not."""
        if path not in self._known:
            self._known[path] = self._judge(path)
        return self._known[path]

    def touched(self, path: str) -> bool:
        """Whether the file at *path* was changed while the deployment installed."""
        try:
            return self._evidence.within(Path(path).stat().st_ctime)
        except OSError:
            return False

    def explains_absence(self, path: str) -> str:
        """Why nothing is at *path* any more, when that is the deployment's; empty: it is not."""
        folder = Path(path).parent
        while not folder.is_dir():
            folder = folder.parent
        status = folder.stat()
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH118, PTH119, PTH120
        return self._evidence.explains_absence(real, status.st_ctime, str(status.st_dev))

    def _judge(self, path: str) -> str:
        try:
            content = _content(path)
        except OSError:
            return ""
        return self._evidence.explains(path, content, self._packaged(path))

    def _packaged(self, path: str) -> Packaged | None:
        real = os.path.realpath(path)
        # dpkg knows files by the names in the package; /bin and /lib are links to /usr on most systems.
        names = frozenset({path, real, real.removeprefix("/usr")})
        found = (packaged_md5(files, sums, names) for files, sums in self._packages)
        md5 = next(filter(None, found), "")
        return Packaged(md5, self._installed) if md5 else None


def main() -> int:
    """The program."""
    paths = Paths.from_environment()
    given = json.loads(Path(sys.argv[1]).read_text())
    device_before = given.pop("device")
    deployed = Deployed(evidence := Evidence.from_json(given), paths)
    catalog = Catalog(paths, load_settings(paths)[0])
    for check in catalog.enabled():
        try:
            told = _follow(check, catalog, paths, deployed, evidence, device_before)
        except MonitorError as error:
            told = {"check": str(check), "problem": str(error)}
        if told:
            print(json.dumps(told), flush=True)  # noqa: T201 - this is its answer
    return 0


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
        thing.row
        for thing in unexpected
        if deployed.explains(file := check.file_of(kept.host, thing))
        or (deployed.touched(file) and any(check.same_again(entry, thing) for entry in about(thing)))
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
    kept.write(data)
    told = [row[:_MOST_OF_ROW] for row in (*rows, *(f"{path} is gone" for path in absent))]
    return {"check": str(name), "entries": len(told), "told": told[:MOST_TOLD]}


async def _survey(host: Host, check: Baselined[Any, Any], entries: list[Any], since: float) -> list[Any]:
    try:
        return await check.survey_since(host, entries, since)
    finally:
        await host.aclose()


def _content(path: str) -> Content:
    """The file at *path* as it is now. Raises OSError."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        while data := file.read(_CHUNK):
            sha256.update(data)
            md5.update(data)
        again = os.fstat(file.fileno())
    if (status.st_ctime_ns, status.st_size) != (again.st_ctime_ns, again.st_size):
        raise OSError("it is being written")
    # A link that leads to another file by now was changed when it was made.
    changed = max(status.st_ctime, os.lstat(path).st_ctime)
    return Content(sha256.hexdigest(), md5.hexdigest(), status.st_mode & 0o7777, changed, str(status.st_dev))


def _changed_packages(dpkg: Path, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """The lists of files and of MD5 sums of the packages that dpkg installed meanwhile."""
    for files in sorted(dpkg.glob("info/*.list")):
        with suppress(OSError, UnicodeDecodeError):
            if evidence.within(files.stat().st_ctime):
                yield files.read_text("utf-8"), files.with_suffix(".md5sums").read_text("utf-8")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _device(path: Path) -> str:
    return str(path.stat().st_dev)


if __name__ == "__main__":
    sys.exit(main())
