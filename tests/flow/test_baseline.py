"""Lists of expected things: the commands on them, and signatures, as attackers meet them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mender_monitor_py import signature
from mender_monitor_py.baseline import parse
from mender_monitor_py.catalog import Catalog
from mender_monitor_py.host.signedlists import read_copy
from mender_monitor_py.model import CRITICAL, OK, CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from tests.fakes.judging import JudgingReport
from tests.fakes.mounts import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, in_own_mounts, mount
from tests.fakes.watched import watched

PROJECT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-W", "error", "-c", "from mender_monitor_py.ctl import main; main()"]
CORE = CheckId("integrity", "core")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root takes any file")
NOT_TRUSTED = "Baseline of integrity core is not trusted"


@dataclass(frozen=True)
class Device:
    """A root folder with a check of three tools, and the program run in it."""

    paths: Paths
    tools: Path

    @property
    def list(self) -> Path:
        return self.paths.baseline_d / "integrity_core.list"

    @property
    def signature(self) -> Path:
        return self.paths.baseline_d / "integrity_core.list.sig"

    def tool(self, number: int) -> Path:
        return self.tools / f"tool{number}"

    def start(self, *words: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, "baseline", *map(str, words)],
            env={**os.environ, "MENDER_MONITOR_ROOT": str(self.paths.root)},
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def ctl(self, *words: str | Path, status: int = 0) -> str:
        """What the command prints; on the standard error, when it is to fail."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == status, (out, err)
        return out if status == 0 or not err else err

    def learn(self) -> None:
        self.ctl("learn", "integrity", "core")

    def serial(self) -> int:
        return parse(self.list.read_bytes(), "", list).serial

    def trust(self, name: str = "release.pem") -> Path:
        """A new pair of keys, the public one in trusted.d; gives the private one."""
        self.paths.trusted_d.mkdir(parents=True, exist_ok=True)
        private = self.tools.parent / f"private-{name}"
        self.ctl("keygen", private, self.paths.trusted_d / name)
        return private

    def sign(self, key: Path) -> None:
        self.ctl("sign", "--key", key, self.list)

    def watched(self, report: JudgingReport | None = None, *, knows: bool = True):
        catalog = Catalog(self.paths, Settings())
        return watched(self.paths, catalog.build(catalog.load_now(CORE)), report, knows=knows)


def made_in(paths: Paths, tools: Path) -> Device:
    """A check of three tools, and these."""
    made = Device(paths, tools)
    made.tools.mkdir()
    for number in range(3):
        made.tool(number).write_text(f"tool {number}")
        made.tool(number).chmod(0o755)
    Catalog(paths, Settings()).create(CORE, {"INTEGRITY_FILES": f"{made.tools}/tool*"})
    return made


@pytest.fixture
def device(paths, tmp_path):
    return made_in(paths, tmp_path / "tools")


# Commands


def test_learn_show_diff_and_accept(device):
    assert "3 entries, serial 1" in device.ctl("learn", "integrity", "core")
    first = device.list.read_bytes()
    assert "nothing is different" in device.ctl("learn", "integrity", "core")
    assert first == device.list.read_bytes()
    assert device.ctl("diff", "integrity", "core") == "nothing is different\n"
    shown = device.ctl("show", "integrity", "core").splitlines()
    assert shown[0].endswith("integrity_core.list: 3 entries, serial 1, no key in trusted.d")
    assert shown[1].split() == ["SHA256", "INODE", "DEVICE", "MODE", "OWNER", "PATH"]
    assert [line.split()[5] for line in shown[2:]] == [str(device.tool(number)) for number in range(3)]

    device.tool(0).write_text("other")
    device.tool(1).unlink()
    device.tool(3).write_text("new")
    shown = device.ctl("diff", "integrity", "core", status=1)
    headings = ["other than expected:", "not expected:", "expected, but not there:"]
    assert [line for line in shown.splitlines() if line.endswith(":")] == headings
    lines = [line.strip() for line in shown.splitlines() if line not in headings]
    assert lines[0] == str(device.tool(0))
    assert re.fullmatch(r"sha256: [0-9a-f]{12}…, expected [0-9a-f]{12}…", lines[1])
    assert [line.split()[0] for line in lines[2:]] == ["+", "-"]

    assert "serial 2" in device.ctl("accept", "integrity", "core", str(device.tool(0)))
    device.ctl("accept", "integrity", "core", str(device.tool(3)))
    found = json.loads(device.ctl("diff", "integrity", "core", "--json", status=1))
    assert (found["unexpected"], found["changed"]) == ([], [])
    assert found["missing"][0].endswith("/tool1")
    assert (
        len(json.loads(device.ctl("show", "integrity", "core", "--json"))["entries"]) == 4
    )  # replaced, not added
    facts = json.loads(device.ctl("learn", "integrity", "core", "--json"))
    assert (facts["serial"], facts["entries"], facts["new"], facts["gone"]) == (4, 3, 0, 1)


def test_what_the_check_leaves_out_is_no_difference(device):
    """With INTEGRITY_INODE=no a copy is the same, for the command too."""
    file = device.paths.monitor_d / "available/integrity_core.sh"
    file.write_text(f"{file.read_text()}INTEGRITY_INODE=no\n")
    device.learn()
    copy = device.tools / "copy"
    shutil.copy2(device.tool(0), copy)
    copy.rename(device.tool(0))
    assert device.ctl("diff", "integrity", "core") == "nothing is different\n"


def test_a_learned_list_is_sorted_by_path_and_the_same_on_each_learn(device):
    device.learn()
    rows = device.list.read_text().splitlines()[3:]
    assert [row.split()[5] for row in rows] == [str(device.tool(number)) for number in range(3)]
    first = device.list.read_bytes()
    device.list.unlink()
    device.learn()
    assert first == device.list.read_bytes()


def test_accept_takes_an_entry_as_it_stands_and_refuses_what_is_none(device):
    device.learn()
    row = f"{'a' * 64} * * * * /opt/app/*"
    device.ctl("accept", "integrity", "core", *row.split())
    assert row in device.list.read_text()
    assert "is no entry" in device.ctl("accept", "integrity", "core", "nonsense", "x", status=1)
    assert "is nothing now" in device.ctl("accept", "integrity", "core", "/no/such/file", status=1)


def test_accept_takes_a_path_of_any_characters(device):
    device.learn()
    odd = device.tools / "tool 4 *\n"
    odd.write_text("odd")
    row = json.loads(device.ctl("diff", "integrity", "core", "--json", status=1))["unexpected"][0]
    device.ctl("accept", "integrity", "core", row.split()[5])
    assert device.ctl("diff", "integrity", "core") == "nothing is different\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives capabilities up")
def test_a_list_without_what_could_not_be_read_is_not_taken_for_whole(device):
    """
    Who is not root cannot learn what only root can read.
    """
    device.tool(1).chmod(0)
    program = "import os; os.geteuid = lambda: 1000; from mender_monitor_py.ctl import main; main()"

    def scenario() -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, "baseline", "learn", "integrity", "core"],
            env={**os.environ, "MENDER_MONITOR_ROOT": str(device.paths.root)},
            capture_output=True,
            text=True,
            check=False,
            cwd=PROJECT,
        )
        assert f"1 files cannot be read, as {device.tool(1)}" in done.stderr
        assert done.returncode == 1

    in_own_mounts(scenario, without=[CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH])
    assert not device.list.exists()


def test_show_names_bad_lines_and_escapes_what_it_shows(device):
    device.learn()
    device.list.write_bytes(device.list.read_bytes() + b"bad \x1b[31m\n")
    shown = device.ctl("show", "integrity", "core")
    assert "! integrity_core.list:7: " in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("show", "integrity", "core"), "run monitorctl baseline learn integrity core"),
        (("learn", "integrity", "none"), "does not exist"),
        (("learn", "log", "x"), "have no list"),
        (("verify", "integrity", "core"), "no key in"),
    ],
)
def test_what_cannot_be_done_is_one_line(device, words, reason):
    Catalog(device.paths, Settings()).create(
        CheckId("log", "x"), {"SERVICE_NAME": "x", "LOG_PATTERN": "x", "LOG_FILE": "/x"}
    )
    told = device.ctl(*words, status=1)
    assert reason in told
    assert told.count("\n") == 1


def test_a_long_learn_reads_on_all_processors_at_idle_priority_and_shows_how_far_it_is(device):
    """The processes are those of a learn that takes seconds; the terminal that of the person before it."""
    for number in range(4):
        with device.tool(number).open("ab") as big:
            big.truncate(4 * 1024**3)  # sparse
    ours, theirs = os.openpty()
    with device.start("learn", "integrity", "core", stderr=theirs) as process:
        os.close(theirs)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wanted = {os.SCHED_IDLE: len(os.sched_getaffinity(0))}
        until(lambda: Counter(map(os.sched_getscheduler, map(int, children.read_text().split()))) == wanted)
        for number in range(4):
            os.truncate(device.tool(number), 100)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert "4 entries" in process.stdout.read()
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "\r\x1b[K4 of 4 files" in shown
    assert shown.endswith("\r\x1b[K")  # what is printed then stands alone


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)  # another process cannot be awaited


def test_a_learn_that_is_killed_leaves_the_old_list(device):
    device.learn()
    before = device.list.read_bytes()
    with (device.tools / "tool9").open("wb") as big:
        big.truncate(256 * 1024**3)  # sparse: minutes of hashing
        with device.start("learn", "integrity", "core") as process:
            time.sleep(1)
            process.send_signal(signal.SIGKILL)
        big.truncate(0)  # who reads it is done
    assert before == device.list.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_learn_without_space_leaves_the_old_list(device):
    def scenario() -> None:
        device.paths.baseline_d.mkdir(parents=True)
        mount("tmpfs", device.paths.baseline_d, "size=16k")
        device.learn()
        before = device.list.read_bytes()
        for number in range(100, 400):
            device.tool(number).write_text(str(number))
        assert "No space left" in device.ctl("learn", "integrity", "core", status=1)
        assert before == device.list.read_bytes()
        assert [path.name for path in device.paths.baseline_d.iterdir()] == [device.list.name]

    in_own_mounts(scenario)


CUT = """
import fcntl, os, struct, sys
moment, disk = int(sys.argv.pop(1)), sys.argv.pop(1)
synced, fsync = 0, os.fsync

def cut():
    # ext4's own: nothing more reaches the disk, not even its journal (EXT4_GOING_FLAGS_NOLOGFLUSH).
    descriptor = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(descriptor, 0x8004587D, struct.pack("I", 2))

def watched(descriptor):
    global synced
    synced += 1
    if synced == moment:
        cut()
    fsync(descriptor)

os.fsync = watched
from mender_monitor_py.ctl import main
try:
    main()
finally:
    if not moment:
        cut()
"""


@pytest.mark.system
@needs_root
@pytest.mark.parametrize(
    ("moment", "serials"),
    [(1, {1}), (2, {1, 2}), (0, {2})],
    ids=["before the list is on the disk", "before its name is", "when learn has ended"],
)
def test_a_power_cut_leaves_the_old_list_or_the_new_one(tmp_path, moment, serials):
    """On a real ext4, without what its defaults do for programs that forget to sync."""
    disk, image = tmp_path / "disk", tmp_path / "image"

    def attach() -> None:
        subprocess.run(["mount", "-o", "loop,noauto_da_alloc", image, disk], check=True)

    def scenario() -> None:
        attach()
        device = made_in(Paths(disk), tmp_path / "tools")
        device.learn()
        os.sync()
        device.tool(1).write_text("a new version")
        command = [
            sys.executable,
            "-c",
            CUT,
            str(moment),
            str(disk),
            "baseline",
            "learn",
            "integrity",
            "core",
        ]
        subprocess.run(
            command, env={**os.environ, "MENDER_MONITOR_ROOT": str(disk)}, cwd=PROJECT, check=False
        )
        subprocess.run(["umount", disk], check=True)
        attach()
        found = parse(device.list.read_bytes(), "", list)
        assert found.serial in serials
        assert (len(found.entries), found.problems) == (3, ())
        subprocess.run(["umount", disk], check=True)

    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    in_own_mounts(scenario)


# Keys


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


def test_keys_and_signatures_of_openssl_are_ours_and_the_other_way_round(device, tmp_path):
    device.learn()
    theirs, public = tmp_path / "theirs.pem", device.paths.trusted_d / "theirs.pem"
    device.paths.trusted_d.mkdir(parents=True)
    openssl("genpkey", "-algorithm", "ed25519", "-out", theirs)
    openssl("pkey", "-in", theirs, "-pubout", "-out", public)
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", theirs, "-in", device.list, "-out", device.signature)
    assert "signed by theirs.pem" in device.ctl("verify", "integrity", "core")
    device.signature.unlink()
    device.sign(theirs)
    assert "the list of integrity core, serial 1" in device.ctl("verify", "--key", public, device.list)

    ours = device.trust("ours.pem")
    device.sign(ours)
    checked = ("-verify", "-rawin", "-pubin", "-inkey", device.paths.trusted_d / "ours.pem")
    assert "Verified Successfully" in openssl(
        "pkeyutl", *checked, "-in", device.list, "-sigfile", device.signature
    )
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", ours, "-in", device.list, "-out", device.signature)
    assert "signed by ours.pem" in device.ctl("verify", "integrity", "core")


def test_keygen_keeps_the_private_key_from_others_and_never_writes_over_one(device, tmp_path):
    device.ctl("keygen", tmp_path / "a.pem", tmp_path / "b.pem")
    assert (tmp_path / "a.pem").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "a.pem").read_bytes()
    assert "File exists" in device.ctl("keygen", tmp_path / "a.pem", tmp_path / "c.pem", status=1)
    assert before == (tmp_path / "a.pem").read_bytes()


def test_an_encrypted_key_asks_for_its_password(tmp_path):
    openssl("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:word", "-out", tmp_path / "k.pem")
    pem = (tmp_path / "k.pem").read_bytes()
    assert len(signature.sign(pem, b"data", lambda: "word")) == 64
    with pytest.raises(ValueError, match="password is wrong"):
        signature.sign(pem, b"data", lambda: "guess")


def test_what_is_no_key_and_what_is_no_list_is_not_used(device, tmp_path):
    device.learn()
    rsa = tmp_path / "rsa.pem"
    openssl("genpkey", "-algorithm", "rsa", "-out", rsa)
    assert "no Ed25519 key" in device.ctl("sign", "--key", rsa, device.list, status=1)
    key = device.trust()
    (tmp_path / "text").write_text("tcp 22\n")
    assert "does not say its check" in device.ctl("sign", "--key", key, tmp_path / "text", status=1)


# Attacks


def test_an_unsigned_list_does_not_count_where_a_key_is_trusted(device):
    async def scenario():
        device.learn()
        key = device.trust()
        async with device.watched(knows=False) as report:
            await report.until(lambda: report.open == [NOT_TRUSTED])
            await report.until(lambda: "is not trusted: the list is not signed" in report.reason)
            assert report.alerts[0].subject.name == "integrity_core.list"
            await asyncio.to_thread(device.sign, key)
            await report.until(lambda: not report.open and report.reason == "")
            assert [alert.level for alert in report.alerts] == [CRITICAL, OK]
            assert report.alerts[1].subject.status == "trusted"

    asyncio.run(scenario())


def tampered(device: Device) -> None:
    device.list.write_bytes(device.list.read_bytes().replace(b"tool1", b"tool7"))


def unsigned(device: Device) -> None:
    device.signature.unlink()


def foreign(device: Device) -> None:
    foreign_key, _ = signature.new_pair()
    device.signature.write_bytes(signature.sign(foreign_key, device.list.read_bytes(), str))


def cut(device: Device) -> None:
    device.signature.write_bytes(device.signature.read_bytes()[:40])


def gone(device: Device) -> None:
    device.list.unlink()


def writable(device: Device) -> None:
    device.list.chmod(0o666)


def writable_key(device: Device) -> None:
    (device.paths.trusted_d / "release.pem").chmod(0o666)


def without_keys(device: Device) -> None:
    shutil.rmtree(device.paths.trusted_d)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (tampered, "the signature does not fit"),
        (unsigned, "the list is not signed"),
        (foreign, "the signature does not fit"),
        (cut, "the list is not signed"),
        (gone, "the list is missing"),
        pytest.param(writable, "can be written by another user", marks=needs_root),
        pytest.param(writable_key, "does not fit", marks=needs_root),
        (without_keys, "no key is left"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_list_that_is_not_trusted_is_a_finding_and_the_last_trusted_one_counts(
    device, attack, reason, running
):
    async def scenario():
        device.learn()
        device.sign(device.trust())
        report = JudgingReport()
        async with device.watched(report):
            if running:
                attack(device)
                await report.until(lambda: report.open == [NOT_TRUSTED])
        if not running:
            attack(device)
        async with device.watched(report, knows=attack is not writable_key):
            await report.until(lambda: report.open == [NOT_TRUSTED])
            assert reason in report.alerts[0].details.description
            stays = "No list counts" if attack is writable_key else "stays in force: serial 1"
            assert stays in report.alerts[0].details.description
            assert len(report.alerts) == 1
            if attack is not writable_key:
                device.tool(1).write_text("evil")
                await report.until(lambda: f"Executable {device.tool(1)} changed" in report.open)

    asyncio.run(scenario())


def test_an_older_list_with_a_valid_signature_is_refused(device):
    async def scenario():
        key = device.trust()
        device.learn()
        device.sign(key)
        old = device.list.read_bytes(), device.signature.read_bytes()
        async with device.watched() as report:
            device.tool(0).write_text("new version")
            await report.until(lambda: report.open)
            await asyncio.to_thread(device.learn)
            await asyncio.to_thread(device.sign, key)
            await report.until(lambda: report.open == [])
            device.signature.write_bytes(old[1])
            device.list.write_bytes(old[0])
            await report.until(lambda: report.open == [NOT_TRUSTED])
            await report.until(lambda: "older" in report.notes["trust"])
            # The newer one is in force: what the older one had is a finding.
            device.tool(0).write_text("tool 0")
            await report.until(lambda: f"Executable {device.tool(0)} changed" in report.open)
        assert "older than the one trusted last: serial 1 < 2" in device.ctl(
            "verify", "integrity", "core", status=1
        )
        # The next list is newer than any that was trusted, even if the present one is gone.
        device.list.unlink()
        device.learn()
        assert device.serial() == 3

    asyncio.run(scenario())


def test_the_list_of_another_check_is_refused(device):
    async def scenario():
        key = device.trust()
        device.learn()
        device.list.write_bytes(
            device.list.read_bytes().replace(b"check: integrity core", b"check: integrity x")
        )
        device.sign(key)
        async with device.watched(knows=False) as report:
            await report.until(lambda: report.open == [NOT_TRUSTED])
            assert "not the list of this check, but of 'integrity x'" in report.alerts[0].details.description

    asyncio.run(scenario())


def test_a_copy_of_the_trusted_list_that_was_changed_does_not_count_either(device):
    async def scenario():
        device.learn()
        device.sign(device.trust())
        async with device.watched():
            pass
        kept = device.paths.trusted / "integrity_core.list.signed"
        assert read_copy(device.paths, device.list.name) is not None
        kept.write_bytes(kept.read_bytes().replace(b"tool1", b"tool7"))
        unsigned(device)
        async with device.watched(knows=False) as report:
            await report.until(lambda: report.open == [NOT_TRUSTED])
            assert "No list counts" in report.alerts[0].details.description

    asyncio.run(scenario())


def test_a_key_that_comes_later_and_one_that_is_none(device):
    async def scenario():
        device.learn()
        async with device.watched() as report:
            key = await asyncio.to_thread(device.trust)
            await report.until(lambda: report.open == [NOT_TRUSTED])
            (device.paths.trusted_d / "broken.pem").write_text("nonsense")
            await asyncio.to_thread(device.sign, key)
            await report.until(lambda: not report.open and not report.reason)

    asyncio.run(scenario())


def test_the_watcher_never_loads_the_library(device):
    """
    The signature is checked by a process of its own.
    """
    device.learn()
    device.sign(device.trust())
    code = (
        "import asyncio, sys\n"
        "from mender_monitor_py.catalog import Catalog\n"
        "from mender_monitor_py.model import CheckId\n"
        "from mender_monitor_py.paths import Paths\n"
        "from mender_monitor_py.settings import Settings\n"
        "from tests.fakes.watched import watched\n"
        "async def run():\n"
        "    paths = Paths.from_environment()\n"
        "    catalog = Catalog(paths, Settings())\n"
        "    async with watched(paths, catalog.build(catalog.load_now(CheckId('integrity', 'core')))): pass\n"
        "asyncio.run(run())\n"
        "print(*sys.modules)"
    )
    program = [sys.executable, "-c", code]
    loaded = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    assert read_copy(device.paths, device.list.name) is not None  # it was checked, and counted
    assert not {"cryptography", "click", "httpx", "_hashlib"} & {name.partition(".")[0] for name in loaded}
