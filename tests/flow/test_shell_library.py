"""The shell library by hand, with the real bash and the real outbox, no daemon."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mender_monitor_py import wire
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.model import Alert, Details, Line, Subject
from mender_monitor_py.outbox import Outbox
from mender_monitor_py.paths import Paths
from mender_monitor_py.records import SET_ASIDE, Limits, Record

REPOSITORY = Path(__file__).parents[2]
LIBRARY = REPOSITORY / "scripts/shell-lib"
SIX = "CRITICAL name details subject status type"


class Shell:
    """A shell whose PATH has the hook, in the library's folder."""

    def __init__(self, paths: Paths, folder: Path) -> None:
        self.paths = paths
        hook = folder / "bin/mender-monitor-hook"
        hook.parent.mkdir()
        hook.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from mender_monitor_py.hooks import main\nmain()\n"
        )
        hook.chmod(0o755)
        self._path = f"{hook.parent}:{os.environ['PATH']}"

    def run(
        self, script: str, *, cwd: Path = LIBRARY, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=cwd,
            env={"PATH": self._path, "MENDER_MONITOR_ROOT": str(self.paths.root), **variables},
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
        )

    def outbox(self) -> Outbox:
        return Outbox(self.paths.outbox, Limits(), Clock())

    def stored(self) -> list[Alert]:
        return [record.alert for record in self.records()]

    def records(self, state: str = "waiting") -> list[Record]:
        outbox = self.outbox()
        found = outbox.records(state)
        outbox.close()
        return found


@pytest.fixture
def shell(paths: Paths, tmp_path: Path) -> Shell:
    return Shell(paths, tmp_path)


def test_an_alert_is_cleared_by_hand(shell: Shell) -> None:
    """The documented call, as a user types it, without a daemon."""
    shell.run(
        'source lib/monitor-lib.sh; monitor_send_alert OK "Log file contains X" "X present in F" "log_x" '
        'LOGCONTAINS log "X" "F"'
    )

    assert shell.stored() == [
        Alert("Log file contains X", "OK", Subject("log_x", "log", "LOGCONTAINS"), Details("X present in F"))
    ]


def test_all_arguments_are_data(shell: Shell) -> None:
    """100 KB of lines, substitutions, quotes, newlines, and bytes that are no text."""
    shell.run(
        r"""
        source lib/monitor-lib.sh
        lines=$(seq --format 'a "line" of 50 bytes and its number, which is %05g' 2000)
        monitor_send_alert OK $'$(id) "q" \'s\'\n`x`' $'\xff\x7f' s st t "" "" "$lines" $'\e[31m' ''
        """
    )
    (alert,) = shell.stored()
    body = json.loads(json.dumps(wire.request_body(alert, 0.0)))

    assert body["name"] == "$(id) \"q\" 's'\n`x`"
    assert body["subject"]["details"]["description"] == "\\xff\x7f"
    assert len(alert.details.lines_before) == 2000
    assert alert.details.line_matching == Line(2001, "\x1b[31m")


@pytest.mark.parametrize(
    "options", ["set -e", "set -u", "set -euo pipefail", "set -C", "set -o posix", "IFS=x"]
)
def test_the_library_bears_what_its_callers_set(shell: Shell, options: str) -> None:
    """Every function under strict options, sourced twice and from elsewhere; nothing stops the caller."""
    result = shell.run(
        f"""
        {options}
        for library in {LIBRARY}/common/*.sh {LIBRARY}/lib/*-lib.sh {LIBRARY}/lib/*-lib.sh; do
            . "$library"
        done
        log_trace a; log_debug a; log_info "told  this" too; log_warn b; log_error c; log_fatal d
        subsystem_set sub key value; subsystem_set sub key other
        x=$(subsystem_get sub key); y=$(subsystem_get sub missing)
        monitor_send_alert {SIX}
        fixlenstore_put raw
        echo "$x,$y,$(fixlenstore_count),$(keys_nolock | wc -l)"
        """,
        cwd=Path("/"),
    )

    assert result.stdout == "other,,2,2\n"
    assert result.stderr == "INFO told  this too\nWARN b\nERROR c\nFATAL d\n"


def test_a_library_is_found_from_its_own_folder(shell: Shell) -> None:
    """Sourced without a slash, as bash finds files of the current folder."""
    result = shell.run(". alert-lib.sh; . monitor-lib.sh; type -t monitor_send_alert", cwd=LIBRARY / "lib")

    assert (result.stdout, result.stderr) == ("function\n", "")


def test_too_few_arguments_fail_with_a_reason(shell: Shell) -> None:
    result = shell.run(". lib/monitor-lib.sh; monitor_send_alert OK a b c d", check=False)

    assert result.returncode == 1
    assert "5 arguments, 6 are needed" in result.stderr


def test_an_alert_that_cannot_be_stored_fails_with_a_reason(shell: Shell) -> None:
    shell.paths.state.parent.mkdir(parents=True)
    shell.paths.state.write_text("not a folder")

    result = shell.run(f". lib/monitor-lib.sh; monitor_send_alert {SIX}", check=False)

    assert result.returncode != 0
    assert str(shell.paths.outbox) in result.stderr
    assert "Traceback" not in result.stderr


def test_the_log_level_is_that_of_the_settings(shell: Shell) -> None:
    """config.sh, and the user's monitor.conf over it."""
    shell.paths.config.parent.mkdir(parents=True)
    shell.paths.config.write_text("CONFIG_LOG_LEVEL=error\n")
    every = ". common/common.sh; log_trace t; log_debug d; log_warn w; log_error e"
    assert shell.run(every).stderr == "ERROR e\n"

    shell.paths.overrides.parent.mkdir(parents=True)
    shell.paths.overrides.write_text("CONFIG_LOG_LEVEL=DEBUG\n")
    assert shell.run(every).stderr == "DEBUG d\nWARN w\nERROR e\n"


@pytest.mark.parametrize("value", ["", " a  b ", "$(id) \"'\\", "two\nlines\n", "é\x01", "-n", "x" * 200_000])
def test_a_subsystem_remembers_any_value(shell: Shell, value: str) -> None:
    """Across processes; a newline at the end survives too."""
    file = shell.paths.root / "value"
    file.write_text(value)
    read = 'IFS= read -r -d "" value <"$FILE"; '
    shell.run(f'. lib/subsystem-storage-lib.sh; {read} subsystem_set sub "a key/.." "$value"', FILE=str(file))

    result = shell.run('. lib/subsystem-storage-lib.sh; subsystem_get sub "a key/.."')

    assert result.stdout == f"{value}\n"


def test_keys_and_subsystems_are_kept_apart(shell: Shell) -> None:
    """Names that a file system would take for others, or not at all."""
    names = ["a", "A", "a/b", "..", ".", "a b", "é", "%2F", "a\nb", "*", "-x"]
    script = ". lib/subsystem-storage-lib.sh; "
    for name in names:
        quoted = f"$'{name}'".replace("\n", "\\n")
        script += f"subsystem_set {quoted} {quoted} {quoted}; "
        script += f"[[ $(subsystem_get {quoted} {quoted}) == {quoted} ]] || exit 1; "
    shell.run(script)

    folders = list((shell.paths.state / "subsystems").iterdir())
    assert len(folders) == len(names)
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)


def test_an_unchanged_value_is_not_written_again(shell: Shell) -> None:
    """Flash memory wears, and subsystems set the same value at each run."""
    shell.run(". lib/subsystem-storage-lib.sh; subsystem_set sub key value")
    file = shell.paths.state / "subsystems/sub/key"
    before = file.stat()

    shell.run(". lib/subsystem-storage-lib.sh; subsystem_set sub key value")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    shell.run(". lib/subsystem-storage-lib.sh; subsystem_set sub key more")
    assert file.stat().st_ino != before.st_ino


def test_writers_at_once_never_show_half_a_value(shell: Shell) -> None:
    """Many processes set and get the same key; each sees one of the values whole, no file is left over."""
    shell.run(
        """
        . lib/subsystem-storage-lib.sh
        long() { local i text=; for ((i = 0; i < 5000; i++)); do text+=$1; done; printf %s "$text"; }
        subsystem_set sub key "$(long 0)"
        for n in 1 2 3 4; do
            value=$(long $n)
            for ((i = 0; i < 30; i++)); do subsystem_set sub key "$value$((i % 2))"; done &
        done
        for ((i = 0; i < 100; i++)); do
            seen=$(subsystem_get sub key)
            [[ ${seen:0:5000} == "$(long "${seen:0:1}")" ]] || exit 1
        done
        wait
        """
    )
    assert [file.name for file in (shell.paths.state / "subsystems/sub").iterdir()] == ["key"]


def test_raw_records_count_and_are_set_aside_in_their_turn(shell: Shell) -> None:
    """An alert in the server's JSON is that alert; what is none waits, is counted, and holds up no other."""
    alert = Alert("n", "OK", Subject("s", "t", "st"), Details("d"))
    body = json.dumps(wire.request_body(alert, 0.0))
    result = shell.run(
        '. lib/fixlenstore-lib.sh; fixlenstore_put "invalid json"; fixlenstore_put "$BODY"; '
        "fixlenstore_put key3; fixlenstore_count; keys_nolock",
        BODY=body,
    )
    count, *keys = result.stdout.split()
    assert (count, len(set(keys)), keys) == ("3", 3, sorted(keys, key=int))

    outbox = shell.outbox()
    assert [record.alert for record in outbox.head(20)] == [alert]
    outbox.close()
    assert shell.run(". lib/fixlenstore-lib.sh; fixlenstore_count").stdout == "1\n"
    assert len(shell.records(SET_ASIDE)) == 2


def test_raw_records_age_like_alerts(shell: Shell) -> None:
    """ALERT_STORE_MAX_RECORD_AGE_S counts for them; the alert that tells of the loss is not counted."""
    shell.paths.overrides.parent.mkdir(parents=True)
    shell.paths.overrides.write_text("ALERT_STORE_MAX_RECORD_AGE_S=600\n")
    shell.run(". lib/fixlenstore-lib.sh; fixlenstore_put key1")
    with closing(sqlite3.connect(shell.paths.outbox, isolation_level=None)) as connection:
        connection.execute("UPDATE alerts SET boottime = boottime - 601, wall = wall - 601")
    shell.run(". lib/fixlenstore-lib.sh; fixlenstore_put key2")

    assert shell.run(". lib/fixlenstore-lib.sh; fixlenstore_count").stdout == "1\n"


def test_only_storing_starts_a_program_of_ours(shell: Shell) -> None:
    """Logging and an unchanged value start no process at all; PATH leads nowhere to prove it."""
    shell.run(". lib/subsystem-storage-lib.sh; subsystem_set sub key value")
    result = shell.run(
        ". lib/monitor-lib.sh; . lib/subsystem-storage-lib.sh; "
        "PATH=/nowhere; log_info a; subsystem_set sub key value; subsystem_get sub key"
    )

    assert (result.stdout, result.stderr) == ("value\n", "INFO a\n")


@pytest.mark.parametrize("name", ["ctl.sh", "mender-monitorctl", "daemon.sh", "mender-monitord"])
def test_the_programs_are_where_the_original_has_them(shell: Shell, tmp_path: Path, name: str) -> None:
    """They run the installed program, with the arguments as given."""
    installed = {"ctl.sh": "mender-monitorctl", "daemon.sh": "mender-monitord"}.get(name, name)
    if any(Path(folder, installed).exists() for folder in ("/usr/bin", "/usr/local/bin")):
        pytest.skip(f"{installed} is installed here")
    program = tmp_path / "bin" / installed
    program.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    program.chmod(0o755)

    assert shell.run(f'./{name} create "a  b"').stdout == f"{program}|create|a  b|"
