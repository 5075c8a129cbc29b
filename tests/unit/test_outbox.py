"""The outbox: durable, in order, bounded, shared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mender_monitor_py import outboxbounds, wire
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import CRITICAL, OK, Alert, CheckId, Details, Line, Stamp, Subject
from mender_monitor_py.outbox import SENT, SET_ASIDE, Changes, Limits, Outbox, Record

START = 2_000_000_000.0
CHECK = CheckId("log", "x")


class FakeClock(Clock):
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.boot = "one"
        self.seconds = 100.0
        self.offset = START
        self.known = True

    def boottime(self) -> float:
        return self.seconds

    def now(self) -> Stamp:
        return Stamp(self.boot, self.seconds, self.offset + self.seconds, self.known)


def alert(name: str, level: str = CRITICAL) -> Alert:
    return Alert(name, level, Subject("s", "test", "x"))


def names(records: list[Record]) -> str:
    """``A`` for a bad a, ``a`` for its OK; ``!`` for what tells of losses, ``.`` for its OK."""
    return "".join(
        (".!"[r.alert.level != OK])
        if r.alert.subject.type == "monitor"
        else (r.alert.name.upper() if r.alert.level != OK else r.alert.name)
        for r in records
    )


class Box:
    """An outbox with short words to fill it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.clock = FakeClock()
        self.path = path
        self.outbox = Outbox(path, limits, self.clock)

    def put(self, text: str) -> None:
        for char in text:
            self.clock.seconds += 1
            self.outbox.put([alert(char.lower(), CRITICAL if char.isupper() else OK)], self.clock.now())

    def waiting(self) -> str:
        return names(self.outbox.records())

    def send_all(self) -> str:
        batch = self.outbox.head(1000)
        self.outbox.sent(record.seq for record in batch)
        return names(batch)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "state/outbox.db", Limits())


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> object:
    """Every outbox that a test makes is closed at its end."""
    made: list[Outbox] = []
    original = Outbox.__init__

    def init(self: Outbox, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Outbox, "__init__", init)
    yield
    for outbox in made:
        outbox.close()


def test_alerts_come_back_whole_and_in_order_after_a_restart(box: Box) -> None:
    full = Alert(
        "näme\0\n",
        "WARNING",
        Subject("s'\"$(x)", "t", "st"),
        Details("d", (Line(1, "a\udce9"),), Line(2, ""), (Line(3, "c"),)),
    )
    at = Stamp("one", 1.5, 2.5, False)
    box.outbox.put([full, alert("b")], at)
    box.outbox.close()
    again = Outbox(box.path, Limits(), box.clock)
    assert again.head(10) == [Record(1, full, at), Record(2, alert("b"), at)]
    assert again.head(1) == [Record(1, full, at)]
    assert again.record(2) == Record(2, alert("b"), at)
    assert again.record(3) is None


def test_a_batch_is_bounded_in_bytes_but_never_empty(box: Box) -> None:
    box.put("ABC")
    assert len(box.outbox.head(10, size=1)) == 1
    assert len(box.outbox.head(10, size=250)) == 2


def test_a_full_outbox_drops_pairs_then_the_oldest_and_tells_it_in_one_alert(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(count=5))
    box.put("ABbCD")
    assert box.waiting() == "ABbCD"
    box.put("E")
    assert box.waiting() == "ACDE!"
    assert box.outbox.counts().dropped == 2
    box.put("FG")
    assert box.waiting() == "DEFG!"
    (told,) = [r for r in box.outbox.records() if r.alert.subject.type == "monitor"]
    assert "4 alerts were dropped" in told.alert.details.description
    assert box.outbox.counts().dropped == 4


def test_what_waits_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxbounds, "MAX_SIZE", 200_000)
    box = Box(tmp_path / "o.db", Limits())
    for name in "abcde":
        big = Alert(name, CRITICAL, Subject("s", "test", "x"), Details("x" * 60_000))
        box.outbox.put([big], box.clock.now())
    assert box.waiting() == "CDE!"


def test_the_loss_is_cleared_once_it_was_told_and_counted_anew(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(count=3))
    box.put("ABCD")
    assert box.send_all() == "CD!"
    assert box.waiting() == "."
    assert box.send_all() == "."
    assert box.waiting() == ""
    box.put("ABCD")
    told = box.outbox.records()[-1].alert.details.description
    assert told.startswith("2 alerts were dropped")
    assert box.outbox.counts().dropped == 4


def test_a_loss_that_grows_while_it_is_sent_is_told_again(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(count=3))
    box.put("ABCD")
    batch = box.outbox.head(10)
    box.put("E")
    box.outbox.sent(record.seq for record in batch)
    assert "3 alerts were dropped" in box.outbox.records()[-1].alert.details.description
    assert box.send_all().endswith("!")
    assert box.send_all() == "."


def test_a_pair_after_a_bad_alert_that_was_sent_is_kept(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(count=4))
    box.put("A")
    box.send_all()
    box.put("BAaCD")
    assert box.waiting() == "aCD!"


def test_old_alerts_are_dropped_and_told(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(age=1000))
    box.put("AB")
    box.outbox.expire()
    assert box.waiting() == "AB"
    box.clock.seconds += 998.5
    box.outbox.expire()
    assert box.waiting() == "AB"
    box.clock.seconds += 1
    box.outbox.expire()
    assert box.waiting() == "B!"
    box.clock.seconds += 1_000_000
    box.put("C")
    assert box.waiting() == "C!"
    assert "2 because they were too old" in box.outbox.records()[-1].alert.details.description


@pytest.mark.parametrize("reboot", [False, True])
def test_the_age_counts_from_when_it_was_stored(tmp_path: Path, reboot: bool) -> None:
    """
    What a silence kept back for longer than an alert may wait is sent, and with its own time.
    """
    box = Box(tmp_path / "o.db", Limits(age=1000))
    box.put("A")
    began = box.clock.now()
    box.clock.seconds += 5000
    box.outbox.commit(Changes([(alert("b"), began)]))
    assert box.waiting() == "B!"
    assert box.outbox.records()[0].at == began
    if reboot:
        box.clock.boot, box.clock.offset = "two", box.clock.offset + box.clock.seconds
        box.clock.seconds = 0.0
    box.clock.seconds += 999
    box.put("C")
    assert box.waiting() == "B!C"
    box.clock.seconds += 1
    box.outbox.expire()
    assert box.waiting() == "C!"


def test_the_file_of_an_earlier_build_is_taken_over_and_can_be_given_back(box: Box) -> None:
    """
    As an update of the device does it, and its rollback.
    """
    columns = "state, own, identity, bad, size, boot_id, boottime, wall, known, body"
    values = f"'waiting', 0, ?, 1, 9, 'one', 100.0, {START + 100}, 1, ?"
    earlier = f"INSERT INTO alerts ({columns}) VALUES ({values})"
    box.put("A")
    box.outbox.commit(Changes([], {(CHECK, "k"): "state"}))
    box.outbox.close()
    connection = sqlite3.connect(box.path)
    connection.execute("ALTER TABLE alerts DROP COLUMN delay")
    connection.execute(earlier, ("x", wire.to_text(alert("b"))))
    connection.commit()
    box.put("C")
    assert box.waiting() == "ABC"
    assert box.outbox.states() == {(CHECK, "k"): "state"}
    with connection:
        connection.execute(earlier, ("x", wire.to_text(alert("d"))))
    connection.close()
    assert box.waiting() == "ABCD"


def test_an_age_of_zero_is_no_limit(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(age=0))
    box.put("A")
    box.clock.seconds += 1e9
    box.put("B")
    assert box.waiting() == "AB"


def test_sent_alerts_stay_listed_for_a_while(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(history=1000, count=3))
    box.put("A")
    box.send_all()
    assert [(r.alert.name, r.sent) for r in box.outbox.records(SENT)] == [("a", START + box.clock.seconds)]
    box.clock.seconds += 1001
    box.put("B")
    assert box.outbox.records(SENT) == []
    for char in "CDEFG":
        box.put(char)
        box.send_all()
    assert names(box.outbox.records(SENT)) == "EFG"


def test_without_history_sent_alerts_are_deleted(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(history=0))
    box.put("A")
    box.send_all()
    assert box.outbox.records(SENT) == []


def test_a_bad_record_is_set_aside_with_the_reason(box: Box) -> None:
    box.put("AB")
    box.outbox.set_aside(1, "400 name too long")
    assert box.waiting() == "B"
    (aside,) = box.outbox.records(SET_ASIDE)
    assert (aside.seq, aside.reason) == (1, "400 name too long")
    assert box.outbox.drop([1, 77]) == 1
    assert box.outbox.counts().set_aside == 0


def test_only_so_many_are_kept_set_aside(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", Limits(count=3))
    for _ in range(5):
        box.put("A")
        box.outbox.set_aside(box.outbox.head(1)[0].seq, "x")
    assert [record.seq for record in box.outbox.records(SET_ASIDE)] == [3, 4, 5]


def test_a_record_that_cannot_be_read_does_not_block_the_others(box: Box) -> None:
    box.put("AB")
    with sqlite3.connect(box.path) as connection:
        connection.execute("UPDATE alerts SET body = 'garbage' WHERE seq = 1")
    connection.close()
    assert names(box.outbox.head(1)) == "B"
    assert box.outbox.counts().set_aside == 1


def test_numbers_are_not_used_again(box: Box) -> None:
    """
    Else an alert could be marked as sent that was put after another was dropped.
    """
    box.put("AB")
    box.outbox.drop([1, 2])
    box.put("C")
    assert [r.seq for r in box.outbox.head(9)] == [3]


def test_one_transaction_holds_alerts_states_and_memories(box: Box) -> None:
    changes = Changes([(alert("a"), box.clock.now())], {(CHECK, "k"): "state"}, {CHECK: "memory"})
    box.outbox.commit(changes)
    assert box.waiting() == "A"
    assert box.outbox.states() == {(CHECK, "k"): "state"}
    assert box.outbox.memories() == {CHECK: "memory"}
    box.outbox.commit(Changes([], {(CHECK, "k"): None, (CHECK, "l"): "2"}, {CHECK: None}))
    assert box.outbox.states() == {(CHECK, "l"): "2"}
    assert box.outbox.memories() == {}
    box.outbox.forget(CHECK)
    assert box.outbox.states() == {}


def test_meta_values_are_kept(box: Box) -> None:
    assert box.outbox.meta("k") == ""
    box.outbox.set_meta("k", "v")
    assert box.outbox.meta("k") == "v"


def test_times_are_settled_once_the_clock_is_set(box: Box) -> None:
    box.clock.known, box.clock.offset = False, 0.0
    box.put("A")
    box.outbox.settle(box.clock.now())
    assert box.outbox.head(1)[0].at.known is False
    box.clock.known, box.clock.offset = True, START
    box.outbox.settle(box.clock.now())
    assert box.outbox.head(1)[0].at == Stamp("one", 101.0, START + 101.0, True)
    before = box.path.with_name("outbox.db-wal").stat()
    box.outbox.settle(box.clock.now())
    assert box.path.with_name("outbox.db-wal").stat() == before


def test_what_cannot_be_written_is_held_and_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.write_text("in the way")
    box = Box(folder / "outbox.db", Limits(count=3))
    for char in "ABCDE":
        with pytest.raises(OutboxError, match=str(folder)):
            box.outbox.commit(Changes([(alert(char.lower()), box.clock.now())], {(CHECK, ""): char}))
    with pytest.raises(OutboxError):
        box.outbox.commit(Changes())
    folder.unlink()
    box.outbox.commit(Changes())
    assert box.waiting() == "DE!"
    assert "3 alerts were dropped" in box.outbox.records()[-1].alert.details.description
    assert box.outbox.states() == {(CHECK, ""): "E"}
    assert box.outbox.counts().held == 0


def test_a_full_disk_is_an_error_that_says_so_and_nothing_is_lost(tmp_path: Path) -> None:
    """
    In a child process whose files may not grow.
    """
    done = _run(
        """
        import resource
        outbox.put([alert("before")], clock.now())
        size = (path.parent / "outbox.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            outbox.commit(Changes([(alert("during"), clock.now())]))
            raise SystemExit("it was written")
        except OutboxError as error:
            print(error)
        print([r.alert.name for r in outbox.records()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        outbox.commit(Changes([(alert("after"), clock.now())]))
        print([r.alert.name for r in outbox.records()])
        """,
        tmp_path / "outbox.db",
    )
    told, during, after = done.splitlines()
    assert "outbox.db" in told
    assert during == "['before']"
    assert after == "['before', 'during', 'after']"


@pytest.mark.parametrize("damage", ["garbage", "middle", "truncated", "wal"])
def test_a_damaged_file_is_moved_aside_and_told(tmp_path: Path, damage: str) -> None:
    box = Box(tmp_path / "outbox.db", Limits())
    box.put("ABCDEFGHIJ" * 30)
    box.outbox.close()
    data = box.path.read_bytes()
    match damage:
        case "garbage":
            box.path.write_bytes(b"garbage" * 1000)
        case "middle":
            box.path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
        case "truncated":
            box.path.write_bytes(data[: 4096 * 3])
        case "wal":
            box.path.write_bytes(b"")
            box.path.with_name("outbox.db-wal").write_bytes(os.urandom(10_000))
    box.put("Z")
    if damage == "wal":  # SQLite itself knows that this is no WAL of its
        assert box.waiting() == "Z"
        return
    assert box.waiting() == "!Z"
    assert list(tmp_path.glob("outbox.db.corrupt-*"))
    assert box.send_all() == "!Z"
    assert box.send_all() == "."


def test_a_new_file_never_meets_the_log_of_the_damaged_one(box: Box) -> None:
    """
    One process finds the damage while another has the file open, and its WAL with it.
    """
    box.put("ABC")
    box.outbox.close()
    box.put("D")
    with box.path.open("r+b") as file:
        file.write(b"garbage" * 1000)
    finder = Outbox(box.path, Limits(), box.clock)
    finder.put([alert("z")], box.clock.now())
    assert box.waiting() == "!Z"
    assert list(box.path.parent.glob("outbox.db.corrupt-*-wal"))
    box.put("Y")
    assert names(finder.records()) == "!ZY"


def test_damage_while_it_is_open_is_survived(box: Box) -> None:
    box.put("A")
    with box.path.open("r+b") as file:
        file.write(b"garbage" * 10_000)
    box.path.with_name("outbox.db-wal").write_bytes(b"")
    box.put("B")
    assert box.waiting().endswith("B")


def test_only_a_few_damaged_files_are_kept(box: Box) -> None:
    for _ in range(4):
        box.outbox.close()
        box.path.parent.mkdir(exist_ok=True)
        box.path.write_bytes(b"garbage" * 1000)
        box.put("A")
    assert len(list(box.path.parent.glob("outbox.db.corrupt-*"))) == 2


def test_a_file_that_was_deleted_or_replaced_under_it_is_made_anew(box: Box) -> None:
    box.put("A")
    for path in box.path.parent.iterdir():
        path.unlink()
    box.put("B")
    assert box.waiting() == "B"
    other = Outbox(box.path, Limits(), box.clock)
    assert names(other.records()) == "B"


def test_a_newer_format_is_refused_and_left_alone(box: Box) -> None:
    box.put("A")
    box.outbox.close()
    connection = sqlite3.connect(box.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutboxError, match="newer version"):
        box.put("B")
    assert not list(box.path.parent.glob("*corrupt*"))


def test_file_and_folder_are_for_root_alone_and_a_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "var/mender-monitor"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "data/mender-monitor")
    box = Box(link / "outbox.db", Limits())
    box.put("A")
    assert link.is_symlink()
    folder = tmp_path / "data/mender-monitor"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_reading_writes_nothing(box: Box) -> None:
    box.put("AB")
    box.outbox.set_aside(1, "x")
    other = Outbox(box.path, Limits(), box.clock)

    def stats() -> list[tuple[str, int, int]]:
        files = sorted(box.path.parent.iterdir())
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    other.head(10)
    before = stats()
    for outbox in (box.outbox, other):
        outbox.head(20)
        outbox.counts()
        outbox.states()
        outbox.records(SET_ASIDE)
        outbox.meta("k")
        outbox.expire()
        outbox.settle(box.clock.now())
        outbox.commit(Changes())
    assert stats() == before


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_commit_is_one_flush_and_an_idle_outbox_does_no_writing_call(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = """
        outbox.put([alert("warm-up")], clock.now())
        mark("begin")
        check = CheckId("log", "x")
        outbox.commit(Changes([(alert("a"), clock.now())], {(check, ""): "s"}, {check: "m"}))
        mark("idle")
        for _ in range(20):
            outbox.head(20); outbox.counts(); outbox.expire(); outbox.settle(clock.now())
        mark("end")
        """
    calls = "trace=fsync,fdatasync,pwrite64,write,pwritev,ftruncate,access,faccessat,faccessat2"
    _run(code, tmp_path / "o/outbox.db", prefix=["strace", "-f", "-o", str(trace), "-e", calls])
    text = trace.read_text()
    commit = text.partition("/mark-begin")[2].partition("/mark-idle")[0]
    idle = text.partition("/mark-idle")[2].partition("/mark-end")[0]
    assert commit.count("sync(") == 1
    assert "pwrite64" in commit
    assert "write" not in idle
    assert "sync(" not in idle


def test_several_processes_add_at_once_and_each_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    code = """
        for n in range(25):
            outbox.put([alert(f"{sys.argv[2]} {n}")], clock.now())
        """
    writers = [_start(code, path, str(number)) for number in range(4)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    found = [r.alert.name.split() for r in Outbox(path, Limits(), FakeClock()).records()]
    assert len(found) == 100
    for number in range(4):
        assert [n for who, n in found if who == str(number)] == [str(n) for n in range(25)]


def test_whatever_was_accepted_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    code = """
        for n in range(100000):
            outbox.put([alert(str(n))], clock.now())
            print(n, flush=True)
        """
    accepted = 0
    randomly = random.Random(7)
    for _ in range(6):
        writer = _start(code, path, limits="Limits(count=10**6)")
        assert writer.stdout is not None
        for _ in range(randomly.randrange(1, 40)):
            writer.stdout.readline()
            accepted += 1
        writer.send_signal(signal.SIGKILL)
        accepted += len(writer.stdout.read().splitlines())
        writer.wait()
        writer.stdout.close()
    stored = Outbox(path, Limits(), FakeClock()).counts().waiting
    # what was being written as the process died may be there too
    assert accepted <= stored <= accepted + 6
    assert not list(tmp_path.glob("*corrupt*"))


_PRELUDE = """
import os, sys
from pathlib import Path
from mender_monitor_py.errors import OutboxError
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import Alert, CheckId, Subject
from mender_monitor_py.outbox import Changes, Limits, Outbox
path, clock = Path(sys.argv[1]), Clock()
outbox = Outbox(path, LIMITS, clock)
alert = lambda name: Alert(name, "CRITICAL", Subject("s", "test", "x"))
mark = lambda name: os.access("/mark-" + name, os.F_OK)
"""


def _start(
    code: str, path: Path, *arguments: str, limits: str = "Limits()", prefix: list[str] | None = None
) -> subprocess.Popen[str]:
    lines = [line[8:] for line in code.strip("\n").splitlines()]
    program = _PRELUDE.replace("LIMITS", limits) + "\n".join(lines)
    return subprocess.Popen(
        [*(prefix or []), sys.executable, "-c", program, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _run(code: str, path: Path, prefix: list[str] | None = None) -> str:
    process = _start(code, path, prefix=prefix)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output
