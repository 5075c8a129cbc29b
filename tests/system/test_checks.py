"""Services, logs and D-Bus on a running device: something happens, and the server is told, twice."""

from __future__ import annotations

import re

from tests.fakes.receiver import Alert
from tests.system.device import WAIT_SECONDS
from tests.system.product import Site, assert_between

NOT_RUNNING = "Service victim not running"

WRITER = r"""
import signal, time

log = open("/var/log/app.log", "a", buffering=1)
matches = []

def again(*_):
    global log
    log = open("/var/log/app.log", "a", buffering=1)

signal.signal(signal.SIGHUP, again)
signal.signal(signal.SIGUSR1, lambda *_: matches.append(None))
number = written = 0
while True:
    number += 1
    log.write(f"line {number}\n")
    while matches:
        matches.pop()
        written += 1
        log.write(f"MATCH {written}\n")
    time.sleep(0.005)
"""


def test_a_service_stopped_started_and_killed(here: Site) -> None:
    """
    CRITICAL when it stops or dies, OK when it runs again, with the times of the events.
    """
    here.device.run("systemctl start victim")
    here.watch("service", "victim", "systemd")
    assert here.state("service", "victim") == "OK"

    before = here.now()
    here.device.run("systemctl stop victim")
    (stopped,) = here.expect(NOT_RUNNING, "CRITICAL")
    assert_between(before, stopped, here.now())
    assert (stopped["subject"]["name"], stopped["subject"]["type"]) == ("victim", "service")

    here.device.run("systemctl start victim")
    here.expect(NOT_RUNNING, "CRITICAL", "OK")
    here.device.run("systemctl kill --signal=KILL victim")
    here.expect(NOT_RUNNING, "CRITICAL", "OK", "CRITICAL")
    here.device.run("systemctl start victim")
    alerts = here.expect(NOT_RUNNING, "CRITICAL", "OK", "CRITICAL", "OK")
    assert alerts[-1]["subject"]["details"]["description"] == "The main process is present again"

    # What comes back at once was never away.
    here.device.run("systemctl restart victim")
    here.device.run("mender-monitorctl disable service victim")


def test_a_log_is_followed_through_logrotate(here: Site) -> None:
    """
    A program writes on while logrotate moves its file away: no match is missed, before, while and after.
    """
    device = here.device
    device.write("/root/writer.py", WRITER)
    device.write(
        "/root/rotate.conf",
        "/var/log/app.log {\n  rotate 5\n  create\n  postrotate\n"
        # The writer still has the old file open when it writes the match.
        "    systemctl kill --signal=USR1 writer\n    sleep 1\n    systemctl kill --signal=HUP writer\n"
        "  endscript\n}\n",
    )
    device.run("systemd-run --unit=writer python3 /root/writer.py")
    device.wait("test -s /var/log/app.log")  # it has its signal handlers when it writes
    here.watch("log", "rotated", "MATCH [0-9]+$", "/var/log/app.log", "2s")
    name = "Log file contains MATCH [0-9]+$"
    levels: list[str] = []
    for rotation in range(3):
        device.run("logrotate --force --state /root/rotate.state /root/rotate.conf")
        levels += ["CRITICAL", "OK"]
        alerts = here.expect(name, *levels)
        assert matching(alerts[-2]) == f"MATCH {2 * rotation + 1}"
        device.run("systemctl kill --signal=USR1 writer")
        levels += ["CRITICAL", "OK"]
        alerts = here.expect(name, *levels)
        assert matching(alerts[-2]) == f"MATCH {2 * rotation + 2}"
        numbers = [int(line["data"].split()[1]) for line in alerts[-2]["subject"]["details"]["lines_before"]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    device.run("systemctl stop writer && mender-monitorctl delete log rotated")


def test_a_log_is_followed_through_copytruncate(here: Site) -> None:
    """
    The other way to rotate: the file stays, and is emptied.
    """
    device = here.device
    device.write("/root/copy.conf", "/var/log/copied.log {\n  rotate 5\n  copytruncate\n}\n")
    device.write("/var/log/copied.log", "nothing\n")
    here.watch("log", "copied", "FAILED", "/var/log/copied.log", "2s")
    levels: list[str] = []
    for rotation in range(3):
        device.run(f"echo 'FAILED before {rotation}' >>/var/log/copied.log")
        levels += ["CRITICAL", "OK"]
        assert matching(here.expect("Log file contains FAILED", *levels)[-2]) == f"FAILED before {rotation}"
        device.run("logrotate --force --state /root/copy.state /root/copy.conf")
        device.run(f"echo 'FAILED after {rotation}' >>/var/log/copied.log")
        levels += ["CRITICAL", "OK"]
        assert matching(here.expect("Log file contains FAILED", *levels)[-2]) == f"FAILED after {rotation}"
    device.run("mender-monitorctl delete log copied")


def test_the_journal_of_a_unit(here: Site) -> None:
    """
    ``@journalctl -f -u NAME`` is kept running, and its lines are the log.
    """
    # journalctl begins with the last lines that there are. A unit that has none yet loses its first ones.
    here.device.run("systemctl start talker && journalctl --sync")
    here.watch("log", "talker", "the pump failed", "@journalctl -f -u talker", "3s")
    here.expect("Log file contains the pump failed", "CRITICAL", "OK")
    here.device.run("systemctl start talker")
    critical, _ = here.expect("Log file contains the pump failed", *["CRITICAL", "OK"] * 2)[2:]
    assert "the pump failed" in matching(critical)
    details = critical["subject"]["details"]
    assert details["description"] == "the pump failed present in @journalctl -f -u talker"
    here.device.run("mender-monitorctl delete log talker")
    here.device.wait("! pgrep -f 'journalctl -f -u [t]alker'")


def test_single_signals_and_a_restart_of_the_bus(here: Site) -> None:
    """
    One signal raises the alert, found by its text or by a match rule, also after dbus-daemon was restarted.
    """
    rule = "type='signal',interface='com.example.Door'"
    here.watch("dbus", "text", "text", "front door", "", "3s")
    here.watch("dbus", "rule", "rule", "", rule, "3s")
    by_text, by_rule = "D-Bus signal arrived on bus system bus", f"D-Bus signal arrived on bus {rule}"
    send = "dbus-send --system --type=signal /com/example com.example.Door.Opened string:'front door'"
    here.device.run(send)
    here.expect(by_text, "CRITICAL", "OK")
    here.expect(by_rule, "CRITICAL", "OK")

    here.device.run(
        "dbus-send --system --type=signal /com/example com.example.Window.Opened string:'front door'"
    )
    here.expect(by_text, "CRITICAL", "OK", "CRITICAL", "OK")
    here.expect(by_rule, "CRITICAL", "OK")

    here.device.run("systemctl restart dbus")

    def is_heard() -> bool:
        here.device.run(send)
        return here.state("dbus", "text") == here.state("dbus", "rule") == "CRITICAL"

    # When the daemon listens to the new bus is not told: what is sent before that is lost.
    here.device.wait_until(is_heard)
    here.server.wait_for(lambda got: pairs(got, by_text) > 2 and pairs(got, by_rule) > 1, WAIT_SECONDS)
    here.device.run("mender-monitorctl delete dbus text && mender-monitorctl delete dbus rule")


def test_a_service_is_watched_after_the_bus_came_back(here: Site) -> None:
    """
    The service check follows systemd over a restart of the bus and over ``systemctl daemon-reexec``.
    """
    here.device.write("/etc/systemd/system/second.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    here.device.run("systemctl daemon-reload && systemctl start second")
    here.watch("service", "second", "systemd")
    name, levels = "Service second not running", []
    for disturbance in ("systemctl restart dbus", "systemctl daemon-reexec"):
        here.device.run(disturbance)
        here.device.wait("systemctl is-active second")
        here.device.wait_until(lambda: here.state("service", "second") == "OK")
        for verb, level in (("stop", "CRITICAL"), ("start", "OK")):
            here.device.run(f"systemctl {verb} second")
            levels.append(level)
            here.expect(name, *levels)
    here.device.run("mender-monitorctl delete service second")


def pairs(alerts: list[Alert], name: str) -> int:
    """How often there was a CRITICAL of this *name*, and then its OK; -1: it is to come."""
    levels = [alert["level"] for alert in alerts if alert["name"] == name]
    count = len(levels) // 2
    return count if levels == ["CRITICAL", "OK"] * count else -1


def matching(alert: dict[str, object]) -> str:
    subject = alert["subject"]
    assert isinstance(subject, dict)
    return re.sub(r"^.*?: ", "", str(subject["details"]["line_matching"]["data"]))
