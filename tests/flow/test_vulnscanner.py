"""The process of a vulnerability scan, with scanners that do what they should not."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mender_monitor_py.host import processtree, vulnscans
from mender_monitor_py.host.vulnscans import Collector, Request, Result

SOON = 60.0
PYTHON = shlex.quote(sys.executable)
FINDING = "echo 'CVE-2024-5535 openssl (high urgency)'"


@pytest.fixture
def request_of(tmp_path: Path) -> Request:
    # At idle priority on a busy machine all takes long.
    return Request("vulnscan x", FINDING, "debsecan", str(tmp_path / "scan.lock"), timeout=120)


@contextmanager
def program(request: Request) -> Iterator[subprocess.Popen[bytes]]:
    with os.fdopen(request.descriptor, "rb") as stdin:
        process = subprocess.Popen(
            vulnscans.COMMAND,
            stdin=stdin,
            stdout=subprocess.PIPE,
            env={**os.environ, **vulnscans.ENVIRONMENT},
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def scan(request: Request) -> Result:
    collector = Collector()
    with program(request) as process:
        assert process.stdout is not None
        for line in process.stdout:
            collector.take(line)
        assert process.wait(SOON) == 0
    assert collector.result is not None
    return collector.result


def alive(marker: str) -> list[int]:
    """The processes with *marker* among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)  # another process cannot be awaited


def test_a_scanner_that_works(request_of: Request) -> None:
    result = scan(request_of)
    assert (result.failed, result.total, [one.key for one in result.found]) == (
        "",
        1,
        ["CVE-2024-5535 openssl"],
    )


def test_sarif_as_another_project_writes_it(request_of: Request, tmp_path: Path) -> None:
    """
    The report of ruff, whose rules S look for flaws in Python: with the status that says that there are some.
    """
    app = tmp_path / "app.py"
    app.write_text('import subprocess\npassword = "hunter2"\nsubprocess.call(input(), shell=True)\n')
    ruff = shlex.join([sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select=S"])
    command = f"{ruff} --output-format=sarif {shlex.quote(str(app))}"
    result = scan(replace(request_of, command=command, format="sarif"))
    assert result.failed == ""
    found = {one.id: one for one in result.found}
    assert {one.severity for one in result.found} == {"high"}
    # Its title of S602 is that of a harmless case; the message is of this one.
    assert '"password"' in found["S105"].message
    shell = found["S602"]
    assert shell.places == (app.as_uri(),)
    assert shell.link.startswith("https://docs.astral.sh/ruff/rules/")
    assert "`shell=True`" in shell.message
    assert shell.message in shell.lines()


def test_it_runs_as_root_has_it_at_idle_priority_with_nothing_of_ours(request_of: Request) -> None:
    """
    SCHED_IDLE is policy 5 (sched(7)); none of our descriptors; the memory is limited.
    """
    command = (
        'echo "$PWD $(cut -d" " -f41 /proc/$$/stat) $(ulimit -d) $(ulimit -c)";'
        "cat /proc/$$/oom_score_adj; readlink /proc/$$/fd/0; grep SigIgn /proc/$$/status;"
        "ls -l /proc/$$/fd | grep -c -e memfd -e scan.lock || true"
    )
    request = replace(request_of, command=command, format="lines", pattern="(?<title>.*)")
    # Lines without an id are known by what they are.
    names = [one.id for one in scan(replace(request, memory=100 * 2**20)).found]
    assert {f"/ 5 {100 * 1024} 0", "1000", "0"} <= set(names)
    assert "/dev/null" in names
    ignored = next(name for name in names if name.startswith("SigIgn:")).partition(" ")[2]
    assert not int(ignored, 16) & 1 << signal.SIGPIPE - 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command": "/nowhere/scanner"}, "the scanner is not there (status 127)"),
        ({"command": "echo oops --token=hunter2 >&2; exit 3"}, "the scanner ended with status 3"),
        ({"command": "kill -SEGV $$"}, "the scanner was ended by SIGSEGV"),
        ({"command": "kill -40 $$"}, "the scanner was ended by signal 40"),
        ({"command": "echo garbage"}, "the report is no debsecan report"),
        ({"command": "head -c 100000 /dev/urandom"}, "the report is no debsecan report"),
        ({"command": "echo '{'", "format": "trivy"}, "the report is no trivy report"),
        ({"command": "true", "format": "grype"}, "the report is no grype report"),
        ({"command": "sleep 60", "timeout": 1}, "the scanner did not end within 1 s"),
        ({"command": "yes"}, "the scanner printed more than 64 MiB"),
        ({"report": "/nowhere/report"}, "the scanner's report /nowhere/report: No such file or directory"),
        ({"report": "/dev/zero"}, "the scanner's report /dev/zero: not a regular file"),
    ],
)
def test_a_scanner_that_does_not_work(request_of: Request, changes: dict[str, Any], reason: str) -> None:
    result = scan(replace(request_of, **changes))
    assert result.failed.startswith(reason)
    assert result.found == ()
    if "oops" in changes.get("command", ""):
        assert result.said == ("oops --token=***",)


@pytest.mark.parametrize(
    "how",
    [
        "for i in 1 2 3 4 5; do (setsid sleep {n} &); done; sleep {n}",
        "(setsid setsid sh -c 'trap \"\" TERM; sleep {n}' &) ; sleep {n}",
    ],
)
def test_the_whole_tree_of_a_scanner_that_hangs_is_ended(request_of: Request, how: str) -> None:
    marker = f"600.{os.getpid()}{abs(hash(how)) % 1000}"
    result = scan(replace(request_of, command=how.format(n=marker), timeout=1))
    assert result.failed == "the scanner did not end within 1 s"
    assert alive(marker) == []


def test_what_a_scanner_leaves_behind_is_ended_and_its_output_counts(request_of: Request) -> None:
    marker = f"601.{os.getpid()}"
    result = scan(replace(request_of, command=f"{FINDING}; setsid sleep {marker} & exit 0"))
    assert (result.failed, result.total) == ("", 1)
    assert alive(marker) == []


def test_a_fork_bomb_is_ended(request_of: Request) -> None:
    marker = f"602.{os.getpid()}"
    # It ends by itself at some thousands: the machine has other work, should the scan not end it.
    more = "[ $1 -eq 0 ] || { b $(($1 - 1)) & b $(($1 - 1)) & }"
    bomb = f"b() {{ sleep {marker} & {more}; }}; b 10; sleep {marker}"
    result = scan(replace(request_of, command=bomb))
    assert result.failed.startswith(
        ("the scanner started more than 500 processes", "the scanner took more than")
    )
    assert alive(marker) == []


@pytest.mark.parametrize(
    "command",
    [
        f"{PYTHON} -c 'x = bytearray(400 * 2**20)' || exit 7",
        f"for i in 1 2 3 4 5; do {PYTHON} -c 'import time; x = bytearray(60 << 20); time.sleep(600)' &\n"
        "done; wait",
    ],
    ids=["one", "many together"],
)
def test_memory_is_limited(request_of: Request, command: str) -> None:
    result = scan(replace(request_of, command=command, memory=200 * 2**20))
    assert "200 MiB of memory" in result.failed or "status 7" in result.failed


def test_a_report_that_is_too_big_to_read_is_a_failure(request_of: Request, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    entry = {"VulnerabilityID": "CVE-2024-1", "PkgName": "x", "Severity": "HIGH"}
    entries = [{**entry, "PkgName": f"package-{number}"} for number in range(40_000)]
    file.write_text(json.dumps({"SchemaVersion": 2, "Results": [{"Vulnerabilities": entries}]}))
    request = replace(request_of, command=f"cat {file}", format="trivy")
    assert "to read (VULNSCAN_MEMORY)" in scan(replace(request, memory=24 * 2**20)).failed
    result = scan(replace(request, limit=10))
    assert (result.total, len(result.found)) == (40_000, 10)


def test_a_report_file_counts_only_when_it_was_written(request_of: Request, tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.write_text("CVE-2024-5535 openssl\n")
    request = replace(request_of, report=str(file))
    assert scan(replace(request, command="true")).failed == f"the scanner wrote no new {file}"
    assert scan(replace(request, command=f"echo CVE-2024-1 bash >{file}")).total == 1


@pytest.mark.parametrize(("status", "fails"), [(1, False), (2, False), (127, True), (143, True)])
def test_some_scanners_tell_by_their_status_that_they_found_something(
    request_of: Request, status: int, fails: bool
) -> None:
    report = {
        "matches": [{"vulnerability": {"id": "CVE-2024-1", "severity": "High"}, "artifact": {"name": "x"}}]
    }
    command = f"echo {shlex.quote(json.dumps(report))}; exit {status}"
    result = scan(replace(request_of, format="grype", command=command))
    assert bool(result.failed) == fails
    nothing = scan(replace(request_of, format="grype", command=f"echo '{{\"matches\": []}}'; exit {status}"))
    assert nothing.failed


def test_one_scan_runs_at_a_time(request_of: Request, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with program(replace(request_of, command=f"cat {gate}", name="vulnscan first")) as first:
        assert first.stdout is not None
        assert json.loads(first.stdout.readline()) == {"started": True}
        with program(request_of) as second:
            assert second.stdout is not None
            assert json.loads(second.stdout.readline()) == {"waiting": "vulnscan first"}
            gate.write_text("")
            assert b'"done"' in first.stdout.readline()
            assert json.loads(second.stdout.readline()) == {"started": True}
            assert b'"finding"' in second.stdout.readline()


@pytest.mark.parametrize("how", ["told", "nobody listens", "killed"])
def test_the_scanner_ends_with_its_process(request_of: Request, how: str) -> None:
    marker = f"603.{os.getpid()}"
    with program(replace(request_of, command=f"sleep {marker}")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: alive(marker))
        if how == "told":
            process.send_signal(signal.SIGTERM)
            assert process.wait(SOON) == 1
        elif how == "killed":
            process.kill()
        else:
            process.stdout.close()
        until(lambda: not alive(marker))


def test_children_are_found_on_kernels_that_do_not_list_them() -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as two:
        assert {one.pid, two.pid} <= set(processtree._children_by_parent(os.getpid()))
        assert set(processtree._children(os.getpid())) == set(processtree._children_by_parent(os.getpid()))
        one.kill()
        two.kill()


def test_progress(request_of: Request, tmp_path: Path) -> None:
    collector, gate = Collector(), tmp_path / "gate"
    seen: list[float] = []
    command = f"until [ -e {gate} ]; do sleep 0.05; done; {FINDING}"
    with program(replace(request_of, command=command, progress=True)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            collector.take(line)
            seen += [collector.progress["seconds"]] if collector.progress else []
            if len(set(seen)) >= 2:
                gate.touch()
    assert seen == sorted(seen)
    assert collector.result is not None and collector.result.total == 1
    assert collector.progress["processes"] >= 1
