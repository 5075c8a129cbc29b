"""Findings while the update client installs: held back over whatever happens, and then judged."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py import holding
from mender_monitor_py.alertstate import Limits
from mender_monitor_py.deployed import Evidence
from mender_monitor_py.hold import Hold
from mender_monitor_py.holding import META, PAYLOAD, REPLACED, Holding
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CRITICAL, OK, CheckId, Details, Line, Observation, Stamp, Subject
from mender_monitor_py.outbox import Limits as OutboxLimits
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.quiet import Quiet
from mender_monitor_py.recorder import CheckReport, Recorder
from mender_monitor_py.replacedfiles import ReplacedFile
from tests.fakes.update_files import UpdateFiles

SOON = 30.0
PORTS, LOGIN, DEPLOYMENT = CheckId("ports", "all"), CheckId("login", "root"), CheckId("deployment", "x")
PORT = Observation(CRITICAL, "Unexpected open port tcp/1", Subject("tcp/1 nc", "ports", "open"), key="tcp/1")
CLOSED = replace(PORT, level=OK)
ENTERED = Observation(
    CRITICAL,
    "Root login over ssh",
    Subject("root", "login", "accepted"),
    Details("from 10.0.0.1", line_matching=Line(7, "Accepted password")),
    event=True,
)
FAILED = Observation(CRITICAL, "Deployment failed", Subject("release-2", "deployment", "failed"))


class ShiftedClock(Clock):
    """A clock in a boot of the test's choice, *ahead* seconds from now."""

    def __init__(self, boot: str = "boot-1", ahead: float = 0.0) -> None:
        super().__init__()
        self.boot, self.ahead = boot, ahead

    def boottime(self) -> float:
        return super().boottime() + self.ahead

    def now(self) -> Stamp:
        now = super().now()
        return replace(now, boot_id=self.boot, wall=now.wall + self.ahead)


class Run:
    """A run of the part of the daemon that holds findings."""

    def __init__(self, paths: Any, clock: Clock | None = None, grace: float = 1800.0) -> None:
        self.clock = clock or ShiftedClock()
        self.host = Host(paths, self.clock)
        self.outbox = Outbox(paths.outbox, OutboxLimits(), self.clock)
        self.recorder = Recorder(self.outbox, self.clock, Limits(60, 8), lambda: None, lambda: None)
        self.recorder.load()
        self.holding = Holding(self.host, self.outbox, self.recorder.run_in_worker, grace, self._changed)
        self.holding.start()
        self._changed()

    def check(self, check: CheckId, expires_after: float | None = None) -> CheckReport:
        return self.recorder.start(check, expires_after)

    def alerts(self) -> list[tuple[str, str]]:
        return [(record.alert.level, record.alert.name) for record in self.outbox.records()]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.02)  # other things than the recorder are waited for, too

    def _changed(self) -> None:
        self.recorder.set_quiet(Quiet(held=self.holding.held))

    async def end(self, *, crash: bool = False) -> None:
        await self.recorder.run_in_worker(lambda: None)
        await self.holding.aclose()
        if crash:  # nothing gets to the disk any more
            self.outbox.commit = lambda changes: None  # type: ignore[method-assign]
        else:
            self.holding.settle()
        await self.recorder.close()
        await self.host.aclose()
        self.outbox.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SETTLE_S", 0.1)


@pytest.fixture(params=["go", "cpp"])
def client(paths: Any, request: pytest.FixtureRequest) -> UpdateFiles:
    paths.run.mkdir(parents=True, exist_ok=True)
    return UpdateFiles(paths.mender, request.param)


@asynccontextmanager
async def running(paths: Any, **options: Any) -> AsyncIterator[Run]:
    run = Run(paths, **options)
    try:
        yield run
    finally:
        await run.end()


def install(client: UpdateFiles, deployment: str = "d-1") -> None:
    client.begin(deployment)
    client.phase("update-install")


def commit(client: UpdateFiles) -> None:
    client.phase("update-commit")
    client.end(success=True, artifact="release-2")


def test_what_is_gone_by_the_end_is_not_told(paths: Any, client: UpdateFiles) -> None:
    """
    A service that the deployment stops and starts, a port that it opens and closes: nothing is told.
    """

    async def story() -> None:
        async with running(paths) as run:
            ports = run.check(PORTS)
            install(client)
            await run.until(lambda: run.holding.held)
            shown = run.holding.status()
            assert shown is not None and shown["artifact"] == "release-2" and shown["outcome"] == ""
            ports.observe(PORT)
            ports.observe(CLOSED)
            commit(client)
            await run.until(lambda: not run.holding.held)
            assert run.alerts() == []
            ports.observe(PORT)
            await run.until(run.alerts)
            assert run.alerts() == [(CRITICAL, PORT.name)]

    asyncio.run(story())


@pytest.mark.parametrize("success", [True, False])
def test_what_is_still_so_is_told_with_its_own_time(paths: Any, client: UpdateFiles, success: bool) -> None:
    """
    After a commit and after a rollback: a finding that is left is told, with the time at which it began; a
    login too, with its line, though its expiration has passed; what was CRITICAL before is not told again.
    """

    async def story() -> None:
        clock = ShiftedClock()
        async with running(paths, clock=clock) as run:
            ports, login = run.check(PORTS), run.check(LOGIN, 60)
            before = replace(PORT, name="Unexpected open port tcp/2", key="tcp/2")
            ports.observe(before)
            await run.until(run.alerts)
            install(client)
            await run.until(lambda: run.holding.held)
            ports.observe(before)
            ports.observe(PORT)
            login.observe(ENTERED)
            run.check(DEPLOYMENT).observe(FAILED)
            began = clock.now().wall
            clock.ahead = 300
            if success:
                commit(client)
            else:
                client.phase("rollback")
                client.end(success=False)
            await run.until(lambda: not run.holding.held and len(run.alerts()) >= 5)
            first, at_once, *held = run.outbox.records()
            assert (first.alert.name, at_once.alert.name) == (before.name, FAILED.name)
            told = {(one.alert.level, one.alert.name): one for one in held}
            assert sorted(told) == sorted(
                [(CRITICAL, PORT.name), (CRITICAL, ENTERED.name), (OK, ENTERED.name)]
            )
            assert abs(told[CRITICAL, PORT.name].at.wall - began) < 5
            assert told[CRITICAL, ENTERED.name].alert.details == ENTERED.details
            assert abs(told[CRITICAL, ENTERED.name].at.wall - began) < 5
            assert told[OK, ENTERED.name].at.wall > began + 200

    asyncio.run(story())


def test_the_artifact_is_known_when_the_next_daemon_comes_too_late_for_it(
    paths: Any, client: UpdateFiles
) -> None:
    """
    After the reboot of an update the client may commit and clean up before the daemon runs.
    """

    async def story() -> None:
        files = client.tree / "files"
        files.mkdir(parents=True)
        (files / "tool").write_text("tool")
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
        commit(client)
        subprocess.run(["rm", "-r", client.tree], check=True)
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            assert [list(names) for names in after.host.installation.payload.values()] == [["tool"]]
            await after.until(lambda: not after.holding.held)
            await after.until(lambda: after.outbox.meta(PAYLOAD) == "")
            install(client, "d-2")
            await after.until(lambda: after.holding.held)
            assert after.host.installation.payload == {}

    asyncio.run(story())


def test_what_runs_on_after_it_was_replaced_is_known_until_the_boot_ends(
    paths: Any, client: UpdateFiles, tmp_path: Path
) -> None:
    """
    Over a restart of the daemon, too; not what somebody else replaced.
    """
    new = Path("/bin/sleep").read_bytes() + b"release-2"
    names = ("agent", "other")

    def put(name: str, content: bytes) -> None:
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").chmod(0o755)
        (tmp_path / "new").rename(tmp_path / name)

    async def story() -> None:
        pids = [process.pid for process in processes]
        async with running(paths) as run:
            (client.tree / "files").mkdir(parents=True)
            (client.tree / "files/agent").write_bytes(new)
            install(client)
            await run.until(lambda: run.holding.held)
            put("agent", new)
            put("other", b"evil")
            await run.until(lambda: run.host.installation._files)
            commit(client)
            await run.until(lambda: not run.holding.held)
            assert [run.host.replaced.path(pid) for pid in pids] == [str(tmp_path / "agent"), ""]
        async with running(paths) as after:
            assert [after.host.replaced.path(pid) for pid in pids] == [str(tmp_path / "agent"), ""]
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            assert after.host.replaced.files == []
            await after.until(lambda: after.outbox.meta(REPLACED) == "")

    for name in names:
        put(name, Path("/bin/sleep").read_bytes())
    processes = [subprocess.Popen([tmp_path / name, "600"]) for name in names]
    try:
        asyncio.run(story())
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("crash", [True, False])
@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("ends", ["meanwhile", "later"])
def test_it_goes_on_over_a_restart_and_a_reboot(
    paths: Any, client: UpdateFiles, crash: bool, boot: str, ends: str
) -> None:
    """
    The daemon ends, or dies, or the device reboots: what is held is there afterwards, and is told at the end,
    also if that came while nobody looked.
    """

    async def story() -> None:
        run = Run(paths)
        install(client)
        await run.until(lambda: run.holding.held)
        run.check(PORTS).observe(PORT)
        await run.recorder.run_in_worker(lambda: None)
        await asyncio.sleep(0.1)  # the transaction that nobody waits for
        began = run.clock.now().wall
        await run.end(crash=crash)
        if ends == "meanwhile":
            commit(client)
        async with running(paths, clock=ShiftedClock(boot, 60)) as after:
            after.check(PORTS).observe(PORT)
            assert after.holding.held and after.alerts() == []
            if ends == "later":
                await asyncio.sleep(0.1)
                assert after.alerts() == []
                commit(client)
            await after.until(after.alerts)
            (told,) = after.outbox.records()
            assert told.alert.name == PORT.name and abs(told.at.wall - began) < 5

    asyncio.run(story())


def test_a_store_that_cannot_be_read_yet_ends_nothing(paths: Any, client: UpdateFiles) -> None:
    """
    The next daemon may come before the client's data: then the hold goes on until it is known how it ended.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
        commit(client)
        store = client.folder / "mender-store"
        store.rename(away := client.folder.parent / "away")
        async with running(paths, clock=ShiftedClock("boot-2", 60)) as after:
            ports = after.check(PORTS)
            ports.observe(PORT)
            await asyncio.sleep(0.5)
            assert after.holding.held and after.alerts() == []
            away.rename(store)
            await after.until(lambda: (after.holding.status() or {}).get("outcome") == "committed")
            await after.until(after.alerts)
            ports.known()

    asyncio.run(story())


def test_a_deployment_that_does_not_end_holds_nothing_for_ever(paths: Any, client: UpdateFiles) -> None:
    """
    After DEPLOYMENT_GRACE all is told, and what is new at once, though the deployment goes on; also after a
    restart.
    """

    async def story() -> None:
        async with running(paths, grace=0.5) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            await run.until(run.alerts)
            assert run.alerts() == [(CRITICAL, PORT.name)] and not run.holding.held
            client.phase("reboot")
            run.check(LOGIN).observe(ENTERED)
            await run.until(lambda: len(run.alerts()) == 2)
        async with running(paths, grace=1800) as run:
            assert not run.holding.held
            commit(client)
            await run.until(lambda: run.outbox.meta(META) == "")

    asyncio.run(story())


def test_what_is_changed_after_the_grace_is_not_the_clients(
    paths: Any, client: UpdateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who writes is not seen any more then, though the deployment goes on and is committed at last.
    """
    known: list[Evidence] = []

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        known.append(evidence)
        return []

    monkeypatch.setattr(holding, "rebaseline", rebaseline)

    async def story() -> None:
        async with running(paths, grace=0.5) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            await run.until(lambda: not run.host.updating)
            over = run.clock.now().wall
            await asyncio.sleep(0.1)
            commit(client)
            await run.until(lambda: known)
            (evidence,) = known
            assert evidence.watched is not None
            assert evidence.watched <= over < evidence.ended
            await run.until(lambda: run.outbox.meta(META) == "")
            run.holding.set_grace(1800)
            install(client, "d-2")
            await run.until(lambda: run.holding.held)
            commit(client)
            await run.until(lambda: len(known) == 2)
            assert known[1].watched is None

    asyncio.run(story())


def test_a_download_holds_nothing_back(paths: Any, client: UpdateFiles) -> None:
    """
    Before the device is changed findings are told; a deployment that fails there is none that holds. What
    the client starts meanwhile is its own: modules have work to do then.
    """

    async def story() -> None:
        async with running(paths) as run:
            client.begin("d-1")
            await run.until(lambda: run.host.updating)
            run.check(PORTS).observe(PORT)
            await run.until(run.alerts)
            assert not run.host.installing
            client.end(success=False, failed_in="update-fetch")
            await run.until(lambda: not run.host.updating)
            assert not run.holding.held
        client.begin("d-2")
        async with running(paths) as run:
            assert run.host.updating
            install(client, "d-2")
            await run.until(lambda: run.holding.held and run.host.installing)
            commit(client)
            await run.until(lambda: not run.holding.held)
            client.begin("d-3")
            await run.until(lambda: run.host.updating)

    asyncio.run(story())


def test_another_deployment_right_behind_goes_on_holding(paths: Any, client: UpdateFiles) -> None:
    """
    What the first one has left is told when the second one has ended.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            commit(client)
            install(client, "d-2")
            await run.until(lambda: (run.holding.status() or {}).get("deployment") == "d-2")
            await asyncio.sleep(0.3)
            assert run.alerts() == []
            client.end(success=False)
            await run.until(run.alerts)

    asyncio.run(story())


def test_another_deployment_right_behind_takes_nothing_from_the_lists(
    paths: Any, client: UpdateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    They follow the first one while the second installs, and then the second, each by its own artifact.
    """
    followed: list[tuple[str, list[str], bool]] = []

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        began = len(followed)
        await asyncio.sleep(0.3)
        names = [name for names in evidence.payload.values() for name in names]
        followed.append((hold.id, names, began == len(followed)))
        return []

    monkeypatch.setattr(holding, "rebaseline", rebaseline)

    def bring(name: str) -> None:
        files = client.tree / "files"
        files.mkdir(parents=True)
        (files / name).write_text(name)

    async def story() -> None:
        async with running(paths) as run:
            bring("one")
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            subprocess.run(["rm", "-r", client.tree], check=True)
            commit(client)
            bring("two")
            install(client, "d-2")
            await run.until(lambda: (run.holding.status() or {}).get("deployment") == "d-2")
            await run.until(lambda: run.host.installing)
            await asyncio.sleep(0.1)
            assert run.alerts() == []
            commit(client)
            await run.until(run.alerts)
            assert [(deployment, alone) for deployment, _, alone in followed] == [
                ("d-1", True),
                ("d-2", True),
            ]
            # The first may be seen to end a moment after the second one's files are there.
            assert "one" in followed[0][1] and followed[1][1] == ["two"]

    asyncio.run(story())


def test_a_store_that_cannot_be_read_for_a_moment_ends_nothing(paths: Any, client: UpdateFiles) -> None:
    """
    Whether the deployment goes on is not known then: what is held stays so, and the evidence with it.
    """

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            began = (run.holding.status() or {})["since"]
            run.check(PORTS).observe(PORT)
            store = client.folder / "mender-store"
            good = store.read_bytes()
            store.write_bytes(b"x" * len(good))
            await run.until(lambda: run.host.updates.unknown)
            await asyncio.sleep(0.4)
            assert run.holding.held and run.alerts() == []
            store.write_bytes(good)
            await run.until(lambda: run.host.updates.current)
            await asyncio.sleep(0.4)
            shown = run.holding.status()
            assert shown is not None and (shown["outcome"], run.alerts()) == ("", [])
            assert abs(shown["since"] - began) < 0.01
            store.write_bytes(b"x" * len(good))
            await run.until(lambda: run.host.updates.unknown)
            store.unlink()
            client.phase("update-commit")
            client.end(success=True, artifact="release-2")
            await run.until(run.alerts)

    asyncio.run(story())


def test_lists_that_cannot_be_followed_hold_nothing_back(
    paths: Any, client: UpdateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever goes wrong there: what was held is judged, and the hold is over.
    """

    async def rebaseline(_: Host, hold: Hold, evidence: Evidence) -> list[ReplacedFile]:
        raise KeyError("told")

    monkeypatch.setattr(holding, "rebaseline", rebaseline)

    async def story() -> None:
        async with running(paths) as run:
            install(client)
            await run.until(lambda: run.holding.held)
            run.check(PORTS).observe(PORT)
            commit(client)
            await run.until(run.alerts)
            await run.until(lambda: not run.holding.held and run.outbox.meta(META) == "")
            assert not run.host.updating

    asyncio.run(story())


def test_what_a_deployment_is_called_obeys_nobody() -> None:
    """
    Its name goes to the log.
    """
    hold = Hold("d-1", "release\n<3>all is well\x1b[2J", "b", Stamp("boot-0", 10.0, 0.0, False), "1")
    assert hold.label.isprintable() and hold.artifact not in hold.label


def test_no_grace_is_no_hold(paths: Any, client: UpdateFiles) -> None:
    """
    DEPLOYMENT_GRACE=0: everything is told at once.
    """

    async def story() -> None:
        async with running(paths, grace=0) as run:
            install(client)
            await run.until(lambda: run.host.updates.current is not None)
            run.check(PORTS).observe(PORT)
            await run.until(run.alerts)

    asyncio.run(story())


def test_a_device_that_boots_again_and_again_is_heard() -> None:
    """
    Without a clock that is set a hold lasts for some boots, not for ever.
    """
    hold = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 0.0, False), "1")
    boots = 0
    while hold.left(1800, Stamp(f"boot-{boots}", 20.0, 0.0, False)):
        boots += 1
        for _ in range(3):  # that the daemon starts again in the same boot is no other boot
            hold = hold.resumed(Stamp(f"boot-{boots}", 5.0, 0.0, False))
        assert boots < 10 and Hold.from_text(hold.to_text()) == hold
    assert boots == 5


def test_the_time_of_a_hold_counts_over_a_reboot_without_a_clock() -> None:
    """
    What was counted at the end of one boot is counted in the next; when it began stays known.
    """
    began = Stamp("boot-0", 10.0, 0.0, False)
    hold = Hold("d-1", "a", "b", began, "1", spent=1000.0, counted=Stamp("boot-0", 1010.0, 1000.0, False))
    hold = hold.resumed(Stamp("boot-1", 5.0, 0.0, False))
    assert hold.left(1800, Stamp("boot-1", 100.0, 95.0, False)) == 700 and hold.began == began
    assert Hold.from_text(hold.to_text()) == hold


BEGUN = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 2e9, True), "1", counted=Stamp("boot-0", 10.0, 2e9, True))
ODD = st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.lists(st.integers())


@settings(max_examples=500)
@given(st.sampled_from([*asdict(BEGUN), "later"]), st.sampled_from([*asdict(BEGUN.began), ""]), ODD)
def test_what_another_version_kept_is_a_hold_or_none(key: str, part: str, value: object) -> None:
    """
    The daemon starts whatever it finds there, and holds nothing for longer than it may.
    """
    stored = {**asdict(BEGUN), "payload_types": []}
    stored[key] = {**stored[key], part: value} if part and isinstance(stored.get(key), dict) else value
    hold = Hold.from_text(json.dumps(stored))
    if hold is not None:
        now = Stamp("boot-1", 5.0, 2e9, True)
        assert 0 <= hold.resumed(now).left(1800, now) <= 1800
        assert hold.label.isprintable() and Hold.from_text(hold.to_text()) == hold
    assert key != "later" or hold == BEGUN


@pytest.mark.parametrize("ahead", [-5, 0, 5])
def test_a_clock_that_was_years_off_makes_no_hold_endless(ahead: int) -> None:
    """
    It began by a clock of another decade, and the device has booted: the hold ends all the same.
    """
    years = ahead * 365 * 86400.0
    hold = Hold("d-1", "a", "b", Stamp("boot-0", 10.0, 2e9 + years, True), "1")
    hold = hold.resumed(Stamp("boot-1", 5.0, 2e9, True))
    left = hold.left(1800, Stamp("boot-1", 100.0, 2e9 + 95, True))
    assert left == (1800 - 95 if ahead >= 0 else 0)
    assert hold.left(1800, Stamp("boot-1", 2000.0, 2e9 + 1995, True)) == 0


def test_the_payload_is_read_with_all_in_it(tmp_path: Path) -> None:
    """
    A file, and a compressed archive with a set-uid program in it; the file may be gone by then.
    """
    import hashlib
    import sys
    import tarfile

    (tmp_path / "tool").write_bytes(b"tool")
    (tmp_path / "tool").chmod(0o4755)
    subprocess.run(
        ["tar", "-C", tmp_path, "-czf", tmp_path / "a.tar.gz", "tool"], check=True, capture_output=True
    )
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        # No file is called so, and the answer would be no line.
        archive.addfile(tarfile.TarInfo("x" * 300_000))
        archive.addfile(tarfile.TarInfo("behind"))
    (tmp_path / "plain").write_bytes(b"plain")
    files = [[str(tmp_path / name), name] for name in ("a.tar.gz", "long.tar", "plain", "none")]
    done = subprocess.run(
        [sys.executable, "-m", "mender_monitor_py.payload"],
        input=json.dumps({"files": files}).encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    found = {name: (sha256, mode) for sha256, name, mode in map(json.loads, done.stdout.splitlines())}
    assert found["tool"] == (hashlib.sha256(b"tool").hexdigest(), 0o4755)
    assert found["plain"][0] == hashlib.sha256(b"plain").hexdigest()
    assert set(found) == {"a.tar.gz", "tool", "long.tar", "behind", "plain"}


def test_what_grows_when_it_is_unpacked_is_read_in_little_memory(tmp_path: Path) -> None:
    """
    A few KiB of each format may be a hundred MiB of zeros, and the watcher's service has 96 MiB in all.
    """
    import bz2
    import gzip
    import io
    import lzma
    import sys
    import tarfile

    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as archive:
        for name, size in (("zeros", 100 << 20), ("behind", 0)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    data = plain.read_bytes()
    (tmp_path / "gz").write_bytes(gzip.compress(data, 1))
    (tmp_path / "bz2").write_bytes(bz2.compress(data, 1))
    (tmp_path / "xz").write_bytes(lzma.compress(data, preset=1))
    (tmp_path / "lzma").write_bytes(lzma.compress(data, format=lzma.FORMAT_ALONE))
    (tmp_path / "damaged").write_bytes(gzip.compress(data, 1)[:1000] + b"x" * 1000)
    names = ("gz", "bz2", "xz", "lzma", "damaged", "plain.tar")
    request = json.dumps({"files": [[str(tmp_path / name), name] for name in names]})
    peak = "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    done = subprocess.run(
        [sys.executable, "-c", f"from mender_monitor_py import payload; payload.main(); {peak}"],
        input=request.encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    *lines, most = done.stdout.splitlines()
    found = [json.loads(line)[1] for line in lines]
    assert [name for name in found if name in names] == list(names)
    assert found.count("zeros") >= 5 and found.count("behind") == 5
    assert int(most) < 64 * 1024  # KiB


def test_a_payload_with_an_endless_header_is_read_in_little_memory(tmp_path: Path) -> None:
    """
    A small file may say that a header of gigabytes comes: the archive ends there, the files behind it count.
    """
    import gzip
    import sys
    import tarfile

    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "bomb", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(1 << 9):
            file.write(bytes(1 << 20))
    (tmp_path / "plain").write_bytes(b"plain")
    request = json.dumps({"files": [[str(tmp_path / name), name] for name in ("bomb", "plain")]})
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-m", "mender_monitor_py.payload"],
        input=request.encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    assert [json.loads(line)[1] for line in done.stdout.splitlines()] == ["bomb", "plain"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak == before or peak < 400 * 1024  # KiB
