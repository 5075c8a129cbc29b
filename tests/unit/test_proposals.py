"""What is proposed for which device, and that it would work."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.model import CheckId
from mender_monitor_py.proposals import (
    Device,
    OpenPort,
    Proposal,
    Service,
    Wireless,
    Wishes,
    propose,
)
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems import SUBSYSTEMS, check_class
from mender_monitor_py.subsystems.base import Definition

DEBIAN = Device(
    distribution="debian",
    dpkg=True,
    ports=(OpenPort("tcp", 22, "sshd", "/usr/sbin/sshd"),),
    services=(
        Service("/usr/sbin/sshd", "ssh.service", ("tcp/22",)),
        Service("/usr/sbin/cron", "cron.service"),
        Service("/usr/bin/mender", "mender-client.service"),
    ),
    programs=700,
    interpreters=("/usr/bin/dash", "/usr/bin/mawk", "/usr/bin/python3.11"),
    interfaces=("eth0",),
    uplink="eth0",
    login_ways=("sshd", "sudo", "su"),
    journal=True,
    scanners=("debsecan", "lynis"),
    update_client=("/usr/bin/mender",),
)


def proposed(device: Device, *root_users: str) -> dict[str, Proposal]:
    """The proposals by the names of their checks, or of the scenario that is left out."""
    return {str(one.check).strip(): one for one in propose(device, Wishes(root_users))}


def values(proposal: Proposal) -> dict[str, str]:
    return {setting.name: setting.value for setting in proposal.settings}


def test_a_usual_device_gets_all_but_wifi():
    found = proposed(DEBIAN)
    assert [name for name, one in found.items() if one.left_out] == ["wifi"]
    assert [name for name in found if name.startswith("pid")] == ["pid mender-client", "pid ssh"]
    assert [name for name in found if name.startswith("vulnscan")] == ["vulnscan debsecan", "vulnscan lynis"]


def test_a_bare_device_says_why_each_scenario_is_left_out():
    found = proposed(Device(dpkg=True, distribution="debian"))
    left_out = {name: (one.left_out, one.advice) for name, one in found.items() if one.left_out}
    assert set(left_out) == {"pid", "traffic", "login", "wifi", "vulnscan", "deployment"}
    assert all(reason for reason, _ in left_out.values())
    assert left_out["vulnscan"][1] == "apt-get install debsecan"


def test_a_setting_that_is_no_matter_of_course_has_a_reason():
    for one in propose(replace(DEBIAN, wireless=(Wireless("wlan0", "home"),)), Wishes(("admin",))):
        assert all(setting.why for setting in one.settings), one.name


def test_only_services_that_matter_are_watched():
    services = (
        Service("/usr/sbin/nginx", "nginx.service", ("tcp/80", "tcp/443")),
        Service("/usr/sbin/agetty", "getty@tty1.service", ("tcp/1",)),
        Service("/opt/pump/pumpd", "pump.service"),
        Service("/usr/bin/python3.11", "gateway.service", (), "/opt/gateway.py"),
        Service("/usr/sbin/cron", "cron.service"),
    )
    found = proposed(replace(DEBIAN, services=services))
    watched = [name for name in found if name.startswith("pid")]
    assert watched == ["pid gateway", "pid nginx", "pid pump"]
    assert values(found["pid nginx"]) == {"PID_SERVICE": "nginx"}


def test_without_systemd_a_process_is_found_by_its_program():
    services = (
        Service("/usr/sbin/sshd", "", ("tcp/22",)),
        Service("/usr/bin/python3.11", "", (), "/opt/my.app/main.py"),
    )
    found = proposed(replace(DEBIAN, systemd=False, services=services))
    assert values(found["pid sshd"]) == {"PID_EXE": "/usr/sbin/sshd"}
    assert values(found["pid main.py"]) == {"PID_CMDLINE": r"(^| )/opt/my\.app/main\.py( |$)"}


def test_ports_that_come_and_go_are_allowed_by_their_holders():
    ports = (
        OpenPort("tcp", 40123, "rpc.statd", "/usr/sbin/rpc.statd"),
        OpenPort("udp", 68, "dhclient", "/usr/sbin/dhclient"),
    )
    allowed = values(proposed(replace(DEBIAN, ports=ports))["ports external"])["PORTS_ALLOW"]
    assert allowed.split(", ") == [
        "tcp 32768-60999 rpc.statd /usr/sbin/rpc.statd",
        "udp 68 dhclient /usr/sbin/dhclient",
        "udp 546 dhclient /usr/sbin/dhclient",
    ]


def test_code_on_the_command_line_is_for_shells_only():
    allowed = values(proposed(DEBIAN)["process all"])["PROCESS_ALLOW"].split(", ")
    assert "/usr/bin/dash -c" in allowed
    assert "/usr/bin/python3.11 /usr/lib/**" in allowed
    assert not [entry for entry in allowed if entry.startswith("/usr/bin/python3.11 -c")]


def test_programs_of_no_package_are_named():
    strange = tuple(f"/usr/bin/x{number}" for number in range(52))
    (note,) = proposed(replace(DEBIAN, strange=strange))["process all"].notes
    assert "/usr/bin/x0" in note
    assert note.endswith("and 2 more")


def test_nobody_may_become_root_unless_the_user_says_so():
    found = proposed(DEBIAN)["login root"]
    assert "LOGIN_ALLOW" not in values(found)
    assert "--allow-login" in found.notes[0]
    allowed = values(proposed(DEBIAN, "admin", "root")["login root"])["LOGIN_ALLOW"]
    assert allowed == "sudo admin, su admin, ssh root, console root"


@pytest.mark.parametrize(
    ("auth_log", "left_out"), [("/var/log/auth.log", False), ("", True)], ids=["auth.log", "nothing"]
)
def test_logins_without_a_journal(auth_log, left_out):
    found = propose(replace(DEBIAN, journal=False, auth_log=auth_log))
    (login,) = [one for one in found if one.subsystem == "login"]
    assert bool(login.left_out) == left_out
    assert left_out or values(login)["LOGIN_SOURCE"] == auth_log


@pytest.mark.parametrize(("uplink", "limit"), [("wwan0", "20M"), ("eth0", "100M"), ("", "100M")])
def test_the_limit_is_that_of_the_link(uplink, limit):
    assert values(proposed(replace(DEBIAN, uplink=uplink))["traffic uplink"])["TRAFFIC_LIMIT"] == limit


def test_a_wireless_interface_is_to_stay_on_its_network():
    wireless = (Wireless("wlan0", "plant-floor"), Wireless("wlan1"))
    found = proposed(replace(DEBIAN, wireless=wireless))
    assert values(found["wifi wlan0"])["WIFI_SSID"] == "plant-floor"
    assert "WIFI_SSID" not in values(found["wifi wlan1"])
    assert "the first one that it sees is learned" in found["wifi wlan1"].notes[0]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
PATHS = st.builds("/{}".format, TEXT)


@given(
    st.builds(
        Device,
        systemd=st.booleans(),
        dpkg=st.booleans(),
        root_kind=st.sampled_from(["ext4", "vfat", "overlay"]),
        ports=st.lists(
            st.builds(OpenPort, st.sampled_from(["tcp", "udp"]), st.integers(0, 65535), TEXT, PATHS),
            max_size=3,
        ).map(tuple),
        services=st.lists(st.builds(Service, PATHS, st.just("x.service") | st.just("")), max_size=3).map(
            tuple
        ),
        interpreters=st.lists(PATHS, max_size=3).map(tuple),
        engines=st.sampled_from([(), ("dockerd",)]),
        interfaces=st.just(("eth0",)),
        login_ways=st.just(("sshd",)),
        journal=st.booleans(),
        auth_log=st.just("/var/log/auth.log"),
        scanners=st.sampled_from([(), ("debsecan",), ("lynis",)]),
        wireless=st.sampled_from([(Wireless("wlan0"),), (Wireless("wlan0", '"Guest WLAN"'),)]),
        update_client=st.just(("/usr/bin/mender",)),
        distribution=st.sampled_from(["debian", "poky"]),
    )
)
def test_every_proposal_is_a_check_that_can_run(device):
    """
    Whatever the names of programs are: an attacker may have chosen them.
    """
    for one in propose(device):
        if not one.left_out and one.subsystem in SUBSYSTEMS:
            kind = check_class(one.subsystem)
            assert kind is not None
            kind(Definition(CheckId(one.subsystem, one.name), values(one)), Settings())
