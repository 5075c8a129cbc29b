"""The lists after a deployment: they have what it changed, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mender_monitor_py import rebaseline
from mender_monitor_py.alertstate import State, encode
from mender_monitor_py.deployed import SLACK_S, Evidence, Image
from mender_monitor_py.hold import Hold
from mender_monitor_py.host import rebaselines
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.runner import Completed
from mender_monitor_py.integritylist import CHANGED, Verdict
from mender_monitor_py.model import CRITICAL, OK, CheckId, Details, Stamp
from mender_monitor_py.outbox import Changes, Limits, Outbox
from mender_monitor_py.paths import ROOT_VARIABLE, Paths
from mender_monitor_py.rebaseline import MOST_TOLD
from mender_monitor_py.setuidlist import Found
from mender_monitor_py.subsystems.integrityfindings import other
from mender_monitor_py.subsystems.setuid import describe
from tests.fakes.monitor import PROJECT

NEW, OLD = b"#!/bin/sh\necho new\n", b"#!/bin/sh\necho old\n"
BROUGHT = {hashlib.sha256(NEW).hexdigest(): {"app": 0o755, "more": 0o755}}


class Place:
    """A device with a check of executables and a list of what they were."""

    def __init__(self, paths: Any, folder: Path) -> None:
        self.paths = paths
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.list = paths.baseline_d / "integrity_app.list"
        for name in ("enabled", "available"):
            (paths.monitor_d / name).mkdir(parents=True, exist_ok=True)
        check = paths.monitor_d / "enabled/integrity_app.sh"
        check.write_text(f"INTEGRITY_FILES='{self.bin}/*'\n")

    def put(self, name: str, content: bytes, mode: int = 0o755) -> Path:
        file = self.bin / name
        new = self.bin.parent / "new"  # beside the old one: never its inode
        new.write_bytes(content)
        new.chmod(mode)
        return new.replace(file)

    def learn(self) -> None:
        self._run(
            "-c", "from mender_monitor_py.ctl import main; main()", "baseline", "learn", "integrity", "app"
        )
        text = self.list.read_text()
        self.list.write_text(text.replace("# serial: 1\n", "# serial: 1\n# ours since May\n"))

    def rebaseline(self, boottime: float | None = None, **more: Any) -> list[dict[str, Any]]:
        done = self._run("-m", "mender_monitor_py.rebaseline", self._given(boottime, **more))
        return [json.loads(line) for line in done.splitlines()]

    def here(self, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
        """In this process, where a test can step in between."""
        monkeypatch.setattr(sys, "argv", ["rebaseline", self._given(**more)])
        monkeypatch.setenv(ROOT_VARIABLE, str(self.paths.root))
        rebaseline.main()

    def rows(self) -> dict[str, str]:
        """The content that the list expects of each file."""
        lines = [line.split() for line in self.list.read_text().splitlines() if not line.startswith("#")]
        return {Path(fields[5]).name: fields[0] for fields in lines}

    def _given(self, boottime: float | None = None, **more: Any) -> str:
        evidence = Evidence(**{"began": time.time() - 1000, "ended": time.time(), **more})
        file = self.paths.root / "evidence.json"
        known = {"device": str(Path("/").stat().st_dev), "boottime": boottime}
        file.write_text(json.dumps(evidence.to_json() | known))
        return str(file)

    def _run(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), ROOT_VARIABLE: str(self.paths.root)}
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout


@pytest.fixture
def place(paths: Any, tmp_path: Path) -> Place:
    made = Place(paths, tmp_path)
    for name in ("app", "tool"):
        made.put(name, OLD)
    made.learn()
    return made


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_the_artifact_brought_is_expected_and_nothing_else(place: Place) -> None:
    """
    A replaced file and a new one of the artifact are taken over, as one change; comments stay. Another file
    that was changed meanwhile, and another new one, are not.
    """
    place.put("app", NEW)
    place.put("more", NEW)
    place.put("tool", b"evil")
    place.put("nc", NEW)
    (told,) = place.rebaseline(payload=BROUGHT)
    assert told["check"] == "integrity app" and told["entries"] == 2
    assert place.rows() == {"app": sha256(NEW), "more": sha256(NEW), "tool": sha256(OLD)}
    assert "# serial: 2\n# ours since May\n" in place.list.read_text()
    assert place.rebaseline(payload=BROUGHT) == []


def test_what_the_update_client_removed_is_expected_no_more(place: Place) -> None:
    """
    Not what somebody else removed.
    """
    (place.bin / "app").unlink()
    (place.bin / "tool").unlink()
    (told,) = place.rebaseline(written=frozenset({f"{place.bin}/app"}))
    assert told["told"] == [f"{place.bin}/app is gone"]
    assert place.rows() == {"tool": sha256(OLD)}
    assert "# serial: 2\n# ours since May\n" in place.list.read_text()
    assert place.rebaseline(written=frozenset({f"{place.bin}/app"})) == []


def test_a_folder_that_the_update_client_removed(place: Place) -> None:
    shutil.rmtree(place.bin)
    (told,) = place.rebaseline(written=frozenset(f"{place.bin}/{name}" for name in ("app", "tool")))
    assert told["entries"] == 2 and place.rows() == {}


def test_an_image_that_changes_everything(place: Place) -> None:
    """
    The whole list follows; of what is told for the log there is little, since the answer has a bound.
    """
    names = [f"app-{number}" for number in range(3 * MOST_TOLD)]
    for name in names:
        place.put(name, NEW)
    (told,) = place.rebaseline(payload={sha256(NEW): dict.fromkeys(names, 0o755)})
    assert told["entries"] == len(names) and len(told["told"]) == MOST_TOLD
    assert set(place.rows()) == {"app", "tool", *names}


def test_what_changed_before_it_began_is_still_a_finding(place: Place) -> None:
    """
    Though the content is the artifact's.
    """
    place.put("app", NEW)
    time.sleep(0.05)
    assert place.rebaseline(began=time.time() + 5, ended=time.time() + 9, payload=BROUGHT) == []
    assert place.rows()["app"] == sha256(OLD)


def changes_before(place: Place) -> float:
    """All that passes for a finding of before; when the deployment began after it."""
    place.put("app", b"evil")  # its content
    place.put("tool", OLD, 0o4755)  # the file itself, and its mode
    place.put("swapped", OLD)  # the file itself
    return later()


def test_what_was_a_finding_before_is_one_after_a_change_of_attributes(place: Place) -> None:
    """
    A module that goes through a tree with chmod, chown and touch changes the time of all files, and writes
    none. Nor does a package manager, nor a rollback.
    """
    place.put("swapped", OLD)
    place.learn()
    before = place.list.read_bytes()
    packaged(place, "app", "tool", "swapped")
    began = changes_before(place)
    changed = [*place.bin.iterdir(), *(place.paths.root / "var/lib/dpkg/info").iterdir()]
    for path in changed:
        path.chmod(path.stat().st_mode & 0o7755)
        os.utime(path)
    for more in ({}, {"packages": True}, {"written": frozenset(map(str, changed))}):
        assert place.rebaseline(began=began, **more) == []
    assert place.list.read_bytes() == before


def test_a_file_that_the_update_client_made_anew_is_its_own_with_all_attributes(place: Place) -> None:
    began = changes_before(place)
    place.put("app", NEW, 0o4700)
    place.rebaseline(began=began, written=frozenset({f"{place.bin}/app"}))
    assert place.rows()["app"] == sha256(NEW) and " 4700 " in place.list.read_text()


@pytest.mark.parametrize("mode", [0o755, 0o4755, 0o777])
@pytest.mark.parametrize("how", ["written", "of the artifact"])
def test_of_a_file_that_it_wrote_to_the_content_is_the_clients(place: Place, mode: int, how: str) -> None:
    """
    Its mode and owner may be those of before: they have to be as the list has them.
    """
    (place.bin / "app").chmod(mode)
    began = later()
    (place.bin / "app").write_bytes(NEW)
    app = frozenset({f"{place.bin}/app"})
    given = {sha256(NEW): {"app": mode}}
    more: dict[str, Any] = {"written": app, "modified": app} if how == "written" else {"payload": given}
    place.rebaseline(began=began, **more)
    assert place.rows()["app"] == sha256(NEW if mode == 0o755 else OLD)


def test_what_was_moved_or_linked_is_not_made(place: Place) -> None:
    """
    The content of a file that the client moves to another place is what it was before.
    """
    place.put("app", b"evil")
    began = later()
    (place.bin / "app").rename(place.bin / "tool")
    (place.bin / "app").symlink_to("tool")
    written = frozenset({f"{place.bin}/app", f"{place.bin}/tool"})
    assert place.rebaseline(began=began, written=written) == []
    assert sha256(b"evil") not in place.rows().values()


def test_a_link_that_leads_to_another_file_was_changed(place: Place) -> None:
    """
    Though that file is an old one. By the artifact it is, when its content is.
    """
    other = place.put("other", NEW).rename(place.bin.with_name("other"))
    began = later()
    (place.bin / "link").symlink_to(other)
    place.rebaseline(began=began, payload={sha256(NEW): {"link": 0o755}})
    assert place.rows()["link"] == sha256(NEW)


def found(place: Place, path: Path, since: float, subsystem: str, level: str = CRITICAL) -> None:
    """A check has a finding *since* then (seconds since the epoch): the content at *path*, as it is now."""
    content = sha256(path.read_bytes())
    verdict = Verdict(CHANGED, (f"sha256: {content}, expected {sha256(OLD)}",))
    seen = other(str(path), verdict, level=level, covered=False)
    if subsystem == "setuid":
        facts = Found(str(path), 0o4755, 0, 0, "", content, 1, 1)
        seen = replace(seen, details=Details("\n".join(describe(facts, (), ()))))
    clock = Clock()
    now = clock.now()
    state = State(seen, since=now.boottime - (now.wall - since))
    with closing(Outbox(place.paths.outbox, Limits(), clock)) as outbox:
        outbox.commit(Changes(states={(CheckId(subsystem, "app"), seen.key): encode(state, now)}))


@pytest.mark.parametrize(("subsystem", "over"), [("integrity", False), ("setuid", True)])
def test_a_content_that_was_a_finding_before_is_not_the_clients(
    place: Place, subsystem: str, over: bool
) -> None:
    """
    Wherever that copies it, or writes it again. What is found since it began may be the deployment's own, and
    what was well again when it began was accepted.
    """
    place.paths.outbox.parent.mkdir(parents=True, exist_ok=True)
    for name in ("app", "new"):
        place.put(name, b"evil")
    began = time.time() - 1000
    written = frozenset(f"{place.bin}/{name}" for name in ("app", "tool", "new"))
    more: dict[str, Any] = {"began": began, "written": written, "modified": written}
    found(place, place.bin / "app", began - 10, subsystem)
    place.put("tool", NEW)
    place.rebaseline(**more)
    assert place.rows() == {"app": sha256(OLD), "tool": sha256(NEW)}
    since, level = (began - 10, OK) if over else (began + 10, CRITICAL)
    found(place, place.bin / "app", since, subsystem, level)
    place.rebaseline(**more)
    assert place.rows() == {"app": sha256(b"evil"), "tool": sha256(NEW), "new": sha256(b"evil")}


def test_without_the_findings_of_before_nothing_is_the_clients(place: Place) -> None:
    place.put("app", NEW)
    place.put("tool", b"made")
    place.paths.outbox.mkdir(parents=True)
    told, _ = place.rebaseline(written=frozenset({f"{place.bin}/tool"}), payload=BROUGHT)
    assert str(place.paths.outbox) in told["unread"]
    assert place.rows() == {"app": sha256(NEW), "tool": sha256(OLD)}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: file capabilities")
@pytest.mark.parametrize("by", ["the artifact", "the client"])
def test_capabilities_are_not_the_artifacts(place: Place, by: str) -> None:
    """
    No artifact has them: it is who made the file that may have given them.
    """
    check = place.paths.monitor_d / "enabled/setuid_all.sh"
    check.write_text(f"SETUID_PATHS='{place.bin}'\n")
    listed = place.paths.baseline_d / "setuid_all.list"
    listed.write_text("# serial: 1\n")
    net_raw = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(place.put("app", NEW), "security.capability", net_raw)
    written = frozenset({f"{place.bin}/app"})
    place.rebaseline(payload=BROUGHT, written=written if by == "the client" else frozenset())
    assert place.rows()["app"] == sha256(NEW)
    assert ("caps:" in listed.read_text()) == (by == "the client")


def packaged(place: Place, *names: str) -> None:
    """dpkg has a package with these files."""
    info = place.paths.root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info.parent / "status").write_text("Package: old\n")
    (info / "old.list").write_text("".join(f"{place.bin}/{name}\n" for name in names))
    sums = (f"{hashlib.md5(OLD, usedforsecurity=False).hexdigest()}  {place.bin}/{name}\n" for name in names)
    (info / "old.md5sums").write_text("".join(line.replace("  /", "  ") for line in sums))


def test_a_package_that_was_installed_counts(place: Place) -> None:
    """
    Its files, with the sums that dpkg has for them; not one that was changed behind the package's back.
    """
    place.put("app", NEW)
    place.put("tool", b"evil")
    info = place.paths.root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info.parent / "status").write_text("Package: app\n")
    (info / "app.list").write_text(f"/.\n{place.bin}/app\n{place.bin}/tool\n")
    sums = [(hashlib.md5(NEW, usedforsecurity=False).hexdigest(), name) for name in ("app", "tool")]
    (info / "app.md5sums").write_text("".join(f"{md5}  {str(place.bin)[1:]}/{name}\n" for md5, name in sums))
    place.rebaseline(packages=True)
    assert place.rows() == {"app": sha256(NEW), "tool": sha256(OLD)}


def test_a_package_whose_files_were_only_touched_was_not_installed(place: Place) -> None:
    """
    Somebody puts a file of it to its place, with another mode.
    """
    packaged(place, "tool")
    began = later()
    for path in (place.paths.root / "var/lib/dpkg/info").iterdir():
        path.touch()
    place.put("tool", OLD, 0o777)
    assert place.rebaseline(began=began, packages=True) == []


def test_what_a_rollback_put_back_is_as_before(place: Place) -> None:
    """
    Another file with the content, mode and owner of the one that was expected; not one with another mode.
    """
    before = place.list.read_text()
    place.put("app", OLD)
    place.put("tool", OLD, 0o777)
    (told,) = place.rebaseline()
    assert [row.split()[5] for row in told["told"]] == [str(place.bin / "app")]
    assert place.list.read_text() != before and place.rebaseline() == []


def test_a_signed_list_is_never_touched(place: Place) -> None:
    """
    The artifact has to bring the new list with its signature: that is told.
    """
    place.put("app", NEW)
    place.paths.trusted_d.mkdir(parents=True)
    (place.paths.trusted_d / "release.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    before = place.list.read_bytes()
    (told,) = place.rebaseline(payload=BROUGHT)
    assert "signed" in told["problem"] and place.list.read_bytes() == before


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the look at all files and the judgement of each."""

    def step_in(act: Callable[[], object]) -> None:
        survey = rebaseline._survey

        async def survey_then(*arguments: Any) -> list[Any]:
            found = await survey(*arguments)
            act()
            return found

        monkeypatch.setattr(rebaseline, "_survey", survey_then)

    return step_in


def test_what_is_another_file_when_it_is_judged_is_not_taken(
    place: Place, between: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who may write to a folder on the way shows one file to who makes the row, the artifact's to who judges.
    """
    place.put("app", NEW)
    good = place.bin.rename(place.bin.with_name("good"))
    place.bin.mkdir()
    place.put("app", b"evil")

    def swap() -> None:
        place.bin.rename(place.bin.with_name("evil"))
        good.rename(place.bin)

    between(swap)
    place.here(monkeypatch, payload=BROUGHT)
    assert sha256(b"evil") not in place.rows().values()
    place.here(monkeypatch, payload=BROUGHT)


def test_a_set_uid_bit_that_is_gone_when_it_is_judged_is_not_taken(
    place: Place, between: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The list would expect it, of the artifact's own content.
    """
    evil = place.put("app", NEW, 0o4755)
    between(lambda: evil.chmod(0o755))
    place.here(monkeypatch, payload=BROUGHT)
    assert " 4755 " not in place.list.read_text()


def test_a_list_that_somebody_changes_meanwhile_is_left_to_him(
    place: Place,
    between: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A look at all files takes a while, in which a person may accept another one.
    """
    place.put("app", NEW)
    theirs = place.list.read_text() + f"{sha256(b'x')} 1 8:1 0755 0:0 /opt/accepted\n"
    between(lambda: place.list.write_text(theirs))
    place.here(monkeypatch, payload=BROUGHT)
    assert place.list.read_text() == theirs
    assert "somebody else" in json.loads(capsys.readouterr().out)["problem"]


def test_trouble_with_one_list_keeps_none_of_the_others_back(place: Place) -> None:
    """
    A path that is too long for the system, in the list of a check before.
    """
    place.put("app", NEW)
    (place.paths.monitor_d / "enabled/integrity_a.sh").write_text(f"INTEGRITY_FILES='{place.bin}/*'\n")
    long = place.list.with_name("integrity_a.list")
    long.write_text(f"{sha256(b'x')} 1 8:1 0755 0:0 /{'x' * 5000}/y\n")
    told = place.rebaseline(payload=BROUGHT)
    assert "integrity app" in [one["check"] for one in told]
    assert place.rows()["app"] == sha256(NEW)


@pytest.mark.parametrize("how", ["open", "mapped", "another name"])
def test_what_may_be_written_unseen_is_not_the_clients(place: Place, how: str) -> None:
    """
    Who has had the file open since before can write to it after the client, and no event tells of that; nor
    does one at this path when it is written by another name.
    """
    written = place.put("app", NEW)
    with written.open("r+b") as file, mmap.mmap(file.fileno(), 0) as _:
        if how == "open":
            assert place.rebaseline(written=frozenset({str(written)})) == []
        elif how == "mapped":
            file.close()
            assert place.rebaseline(written=frozenset({str(written)})) == []
    (other := place.bin.with_name("other")).hardlink_to(written)
    assert place.rebaseline(written=frozenset({str(written)})) == []
    other.unlink()
    (told,) = place.rebaseline(written=frozenset({str(written)}))
    assert told["entries"] == 1


def test_a_file_below_a_link_is_known_by_its_own_path(place: Place) -> None:
    """
    As /bin is one to /usr/bin: the kernel tells what is written without the links on the way.
    """
    real = place.bin.rename(place.bin.with_name("real"))
    place.bin.symlink_to(real)
    place.put("app", NEW)
    place.rebaseline(written=frozenset({f"{real}/app"}))
    assert place.rows()["app"] == sha256(NEW)


def test_a_list_that_came_with_the_image_wins(place: Place) -> None:
    """
    On a new root file system the list in it counts; one of the data partition is brought up to the image.
    """
    place.put("app", NEW)
    image = Image(str(place.list.stat().st_dev), time.time() + 60)
    evidence = Evidence(time.time() - 10, time.time(), image=image)
    file = place.paths.root / "evidence.json"
    file.write_text(json.dumps({**evidence.to_json(), "device": "of another slot", "boottime": None}))
    told = json.loads(place._run("-m", "mender_monitor_py.rebaseline", str(file)))
    assert "new root file system" in told["problem"]


SLEEP = Path("/bin/sleep").read_bytes()
NEXT = SLEEP + b"release-2"
BROUGHT_NEXT = {sha256(NEXT): {"agent": 0o755}}


class Agent:
    """A program that runs, and is replaced or not."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.path = str(place.bin / "agent")
        self.process = subprocess.Popen([self.path, "600"])
        self.executable = Path(f"/proc/{self.process.pid}/exe")
        self.file = self.executable.stat()

    def kept(self, since: float = 0.0, **more: Any) -> bool:
        """Whether a deployment that began *since* seconds after now has replaced it."""
        began = time.clock_gettime(time.CLOCK_BOOTTIME) + since
        answers = [one["replaced"] for one in self.place.rebaseline(began, **more) if "replaced" in one]
        told = [
            file for file in answers if file[0] == self.path
        ]  # what else runs on this machine is like that, too
        changed = self.executable.stat().st_ctime_ns
        assert told in ([], [[self.path, self.file.st_dev, self.file.st_ino, changed]])
        return bool(told)


def later() -> float:
    """A moment before which all of what was done so far counts as done."""
    time.sleep(SLACK_S + 0.1)
    return time.time()


@pytest.mark.parametrize("boot", ["this", "another"])
def test_the_boot_in_which_it_began_is_known(paths: Paths, boot: str) -> None:
    """
    The time since boot says nothing of processes of another one.
    """
    given: dict[str, Any] = {}

    async def run(argv: list[str], **_: object) -> Completed:
        given.update(json.loads(Path(argv[-1]).read_text()))
        return Completed(0, b"")

    began = Stamp("this", 10.0, 0.0, known=True)
    clock = SimpleNamespace(now=lambda: replace(began, boot_id=boot))
    host: Any = SimpleNamespace(paths=paths, clock=clock, runner=SimpleNamespace(run=run))
    paths.run.mkdir(parents=True)
    asyncio.run(rebaselines.rebaseline(host, Hold("d-1", "a", "b", began, "1"), Evidence(0.0, 1.0)))
    assert given["boottime"] == (10.0 if boot == "this" else None)


@pytest.fixture
def agent(paths: Any, tmp_path: Path) -> Iterator[Agent]:
    """It runs, and is on the list of integrity."""
    place = Place(paths, tmp_path)
    place.put("agent", SLEEP)
    place.learn()
    made = Agent(place)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_a_program_that_runs_on_after_it_was_replaced(agent: Agent) -> None:
    """
    It is the deployment's doing; not while its file is there, in another boot, or of one that started later.
    """
    assert not agent.kept(payload=BROUGHT_NEXT)
    agent.place.put("agent", NEXT)
    assert not agent.kept(since=-1000, payload=BROUGHT_NEXT)
    assert all("replaced" not in one for one in agent.place.rebaseline(None, payload=BROUGHT_NEXT))
    assert agent.kept(payload=BROUGHT_NEXT)
    assert "(deleted)" not in agent.place.list.read_text()


def test_a_program_that_runs_on_after_the_update_client_removed_it(agent: Agent) -> None:
    (agent.place.bin / "agent").unlink()
    assert not agent.kept()
    assert agent.kept(written=frozenset({agent.path}))


def test_a_program_that_somebody_else_replaced(agent: Agent) -> None:
    """
    What is at its path is not the deployment's.
    """
    agent.place.put("agent", b"evil")
    assert not agent.kept(payload=BROUGHT_NEXT)


def test_a_program_that_was_replaced_before(agent: Agent) -> None:
    """
    It was a finding then, and stays one, though the deployment has put a file there.
    """
    agent.place.put("agent", b"evil")
    began = later()
    agent.place.put("agent", NEXT)
    assert not agent.kept(began=began, payload=BROUGHT_NEXT)


def test_a_program_that_a_rollback_put_back(agent: Agent) -> None:
    """
    The same content is at its path again, in another file. Another content is not.
    """
    agent.place.put("agent", NEXT)
    assert not agent.kept()
    agent.place.put("agent", SLEEP)
    assert agent.kept()


def test_a_program_that_the_list_did_not_expect_before(agent: Agent) -> None:
    """
    An attacker's, in the place of a listed one, that the deployment replaces: it was a finding.
    """
    agent.place.put("agent", SLEEP + b"evil")
    evil = Agent(agent.place)
    try:
        agent.process.kill()
        agent.process.wait()
        began = later()
        agent.place.put("agent", NEXT)
        assert not evil.kept(began=began, payload=BROUGHT_NEXT)
    finally:
        evil.process.kill()
        evil.process.wait()


@pytest.mark.parametrize(
    ("allowed", "kept"),
    [
        ("{bin}/*", True),
        ("{bin}/agent sha256:{sha256}", True),
        ("{bin}/agent user:nobody", False),
        ("/usr/**", False),
    ],
)
def test_a_program_that_was_not_expected_to_run(agent: Agent, allowed: str, kept: bool) -> None:
    place = agent.place
    entry = allowed.format(bin=place.bin, sha256=sha256(SLEEP))
    check = place.paths.monitor_d / "enabled/process_all.sh"
    check.write_text(f"PROCESS_ALLOW='{entry}'\n")
    place.put("agent", NEXT)
    assert agent.kept(payload=BROUGHT_NEXT) == kept


def test_a_list_that_the_artifact_brought_says_nothing_of_before(agent: Agent) -> None:
    place = agent.place
    place.put("agent", NEXT)
    place.list.write_text(place.list.read_text().replace(sha256(SLEEP), sha256(NEXT)))
    os.utime(place.list, (1, 1))
    assert agent.kept(payload=BROUGHT_NEXT)
