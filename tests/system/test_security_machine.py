"""
The five checks in their packaged unit, on Debian's own kernel, in the initial namespaces.

What a container refuses (fanotify for whole file systems, the process connector) has to work here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.system.vm import SHARED, Vm
from tests.system.vmproduct import UNITS, Watched, installed

CHECKS = ("integrity core", "pid app", "ports external", "process all", "setuid system")
DEFINE = """
mender-monitorctl create integrity core 'INTEGRITY_FILES=/usr/bin/ta*'
mender-monitorctl create pid app PID_EXE=/usr/local/bin/app
mender-monitorctl create ports external 'PORTS_ALLOW=tcp 22'
mender-monitorctl create process all 'PROCESS_ALLOW=/usr/**, /usr/** *'
mender-monitorctl create setuid system SETUID_XDEV=no 'SETUID_ALLOW=/usr/**'
for check in 'integrity core' 'pid app' 'ports external' 'process all' 'setuid system'; do
    mender-monitorctl enable $check
done
install -m 755 /bin/sleep /usr/local/bin/app
"""
START = f"""
mender-monitorctl baseline learn integrity core
systemd-run --quiet --unit=app --property=Restart=always --property=RestartSec=10ms /usr/local/bin/app 6000
systemctl start {UNITS}
"""
MOST_KIB = 30 * 1024


class Place(Watched):
    """The machine with all five checks."""

    def findings(self) -> set[str]:
        return {found["name"] for check in self.checks().values() for found in check["findings"]}

    def alert(self, name: str) -> str:
        """The last alert of this *name* that waits to be sent, as JSON."""
        numbers = re.findall(
            rf"(?m)^(\d+) .* {re.escape(name)}$", self.vm.run("mender-monitorctl queue list")
        )
        return self.vm.run(f"mender-monitorctl queue show {numbers[-1]}")


@pytest.fixture(scope="module")
def watched(machine: Vm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All five checks are enabled, and have looked."""
    folder = tmp_path_factory.mktemp("product")
    with installed(machine, folder, lambda root: root.sh(DEFINE)):
        machine.run(START)
        found = Place(machine)
        found.until(lambda: found.are_well(CHECKS), 400)
        yield found
        machine.run("systemctl stop app")


def test_systemd_in_the_initial_namespaces(machine: Vm) -> None:
    """
    All units are up, scripts' results come back, one that hangs is ended, and the folder is shared both ways.
    """
    (machine.share / "question").write_text("here\n")
    failed = machine.run("systemctl --failed --plain --no-legend")
    assert machine.run("systemctl is-system-running || true") == "running\n", failed
    # The first process of the initial namespace: a kernel thread's parent.
    assert machine.run("cat /proc/2/comm") == "kthreadd\n"
    assert machine.run(f"cat {SHARED}/question && echo answer >{SHARED}/answer") == "here\n"
    assert (machine.share / "answer").read_text() == "answer\n"
    refused = machine.attempt("printf '\\377'; echo no >&2; exit 3")
    assert (refused.returncode, refused.stdout) == (3, "\\xffno\n")
    assert machine.attempt("sleep 600", seconds=0.5).returncode == 124
    assert machine.run("sleep 600 & echo goes on") == "goes on\n"
    with pytest.raises(AssertionError, match="exit 1 failed"):
        machine.run("exit 1")


def test_nothing_is_refused_to_the_unit(watched: Place) -> None:
    """No check falls back to anything, and all five are small."""
    assert [note for name in CHECKS for note in watched.checks()[name]["notes"]] == []
    pid = watched.vm.run("systemctl show -P MainPID mender-monitor").strip()
    used = int(watched.vm.run(f"grep VmRSS /proc/{pid}/status").split()[1])
    assert used <= MOST_KIB


def test_programs_of_a_millisecond(watched: Place) -> None:
    """Each is named, by the process connector and fanotify."""
    names = {f"Unexpected process /opt/blink{number}" for number in range(10)}
    watched.vm.run("for n in 0 1 2 3 4 5 6 7 8 9; do cp /bin/true /opt/blink$n; /opt/blink$n; done")
    watched.until(lambda: names <= watched.findings())
    assert "Processes that could not be named" not in watched.findings()


def test_a_set_uid_executable_by_its_event(watched: Place) -> None:
    """The next scan is an hour away, and nobody looks at that folder. The alert says who did it."""
    name = "Unexpected set-uid executable /srv/a/b/sh"
    watched.vm.run("mkdir -p /srv/a/b && install -m 755 /bin/sh /srv/a/b/sh && chmod u+s /srv/a/b/sh")
    watched.until(lambda: name in watched.findings())
    assert re.search(r"by:\\npid: \d+|by pid \d+", watched.alert(name))
    watched.vm.run("rm /srv/a/b/sh")
    watched.until(lambda: name not in watched.findings())


def test_a_process_under_a_mount(watched: Place) -> None:
    """The unit has a /proc of its own; it is the system's where somebody hides."""
    script = (
        "mkdir -p /opt/empty; sleep 600 >/dev/null & until grep -q sleep /proc/$!/comm; do sleep 0.1; done;"
        " mount --bind /opt/empty /proc/$!; echo $!"
    )
    pid = watched.vm.run(script).strip()
    watched.until(lambda: f"Hidden process {pid}" in watched.findings())
    assert "command line: sleep 600" in watched.alert(f"Hidden process {pid}")
    watched.vm.run(f"umount /proc/{pid}; kill {pid}")
    watched.until(lambda: f"Hidden process {pid}" not in watched.findings())


def test_an_executable_that_is_overwritten_and_one_under_a_mount(watched: Place) -> None:
    names = {"Executable /usr/bin/tac changed", "Executable /usr/bin/tail changed"}
    watched.vm.run("echo >>/usr/bin/tac; mount --bind /usr/bin/tac /usr/bin/tail")
    watched.until(lambda: names <= watched.findings())
    watched.vm.run("umount /usr/bin/tail")
    watched.until(lambda: "Executable /usr/bin/tail changed" not in watched.findings())


def test_a_port_with_its_owner(watched: Place) -> None:
    code = "import socket, time; s = socket.create_server(('0.0.0.0', 4444)); time.sleep(600)"
    watched.vm.run(f'systemd-run --quiet --unit=backdoor python3 -c "{code}"')
    name = "Unexpected open port tcp/4444"
    watched.until(lambda: name in watched.findings())
    assert "systemd unit: backdoor.service" in watched.alert(name)
    watched.vm.run("systemctl stop backdoor")
    watched.until(lambda: name not in watched.findings())


def test_a_service_that_was_killed(watched: Place) -> None:
    """systemd starts it again after 10 ms; how the old one ended is known here."""
    watched.vm.run("systemctl kill --signal=SEGV app")
    watched.until(lambda: "Process app restarted" in watched.findings())
    assert "it was ended by SIGSEGV" in watched.alert("Process app restarted")
