"""
Which security checks fit a device, with which settings, and why.

Pure: the values of a survey (host/devicesurvey.py) in, proposals out. A proposal says what it watches and
why each setting is as it is, or why a scenario is left out; nothing is decided that is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mender_monitor_py.baseline import quote
from mender_monitor_py.commandline import is_shell
from mender_monitor_py.model import CheckId

_NAMED = 50  # programs of no package: to be looked at, one by one

UPLOAD_LIMIT, MOBILE_LIMIT = "100M", "20M"

_DHCP_CLIENTS = frozenset("systemd-network NetworkManager dhclient dhcpcd udhcpc connmand".split())  # noqa: SIM905
_MOBILE = ("wwan", "ppp", "rmnet", "usb")
# What `baseline learn integrity core` takes: as in monitor-available/integrity_core.sh.
CORE_FILES = (
    "/usr/bin/* /usr/sbin/* /bin/* /sbin/* /usr/local/bin/* /usr/local/sbin/* /usr/lib/systemd/systemd* "
    "/usr/lib/*/ld-linux*.so* /usr/lib/*/libc.so.* /usr/lib/*/libcrypto.so.* /usr/lib/*/security/*.so"
)
_IMAGES_OF_CONTAINERS = (
    "/var/lib/docker /var/lib/containers /var/lib/containerd /var/lib/lxc /var/lib/machines"
)
# dpkg and debconf run the scripts of packages there; only root can write there.
_PACKAGE_SCRIPTS = ("/var/lib/dpkg/info/*", "/var/lib/dpkg/tmp.ci/*", "/var/cache/debconf/tmp.ci/*")
# File systems that give a file another inode after a reboot.
_UNSTEADY = frozenset("vfat exfat msdos ntfs3 cifs smb3 9p".split())  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port that is open to the outside, and who holds it."""

    protocol: str
    number: int
    name: str = ""
    executable: str = ""
    ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A process that stays: *unit* is its systemd unit, *ports* are those that it holds, as ``tcp/22``."""

    executable: str
    unit: str = ""
    ports: tuple[str, ...] = ()
    script: str = ""

    @property
    def name(self) -> str:
        """What it is called: its unit, or the last part of its path."""
        return self.unit.removesuffix(".service") or (self.script or self.executable).rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Wireless:
    """A wireless interface, and the SSID that it is on as WIFI_SSID has it; empty: none."""

    name: str
    ssid: str = ""


@dataclass(frozen=True)
class Device:
    """
    What a survey of a device found.

    *systemd*: it is process 1. *programs*: how many are installed; *strange*: those of them that no package
    brought, empty where there is no package database. *clients*: the first and the last port that the kernel
    gives to clients. *login_ways*: sshd, sudo, su as found. *update_client*: its programs. *distribution* as
    os-release(5) has it: ``debian``. *engines*: of containers, that run.
    """

    systemd: bool = True
    distribution: str = ""
    dpkg: bool = False
    root_kind: str = "ext4"
    ports: tuple[OpenPort, ...] = ()
    clients: tuple[int, int] = (32768, 60999)
    services: tuple[Service, ...] = ()
    programs: int = 0
    strange: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    uplink: str = ""
    wireless: tuple[Wireless, ...] = ()
    login_ways: tuple[str, ...] = ()
    journal: bool = False
    auth_log: str = ""
    scanners: tuple[str, ...] = ()
    update_client: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """A variable of a check file. *why* is for the person who decides; *asked*: that person wants it."""

    name: str
    value: str
    why: str = ""
    asked: bool = False


@dataclass(frozen=True)
class Proposal:
    """
    A check that fits, or a scenario that is left out.

    *left_out* is the reason for the latter; *advice* what to do for it, when the device should have it.
    *learns*: it compares with a list.
    """

    subsystem: str
    name: str = ""
    watches: str = ""
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()
    learns: bool = False
    left_out: str = ""
    advice: str = ""

    @property
    def check(self) -> CheckId:
        return CheckId(self.subsystem, self.name)


@dataclass(frozen=True)
class Wishes:
    """What the user says, because no survey can tell: the users who may become root."""

    root_users: tuple[str, ...] = field(default=())


def propose(device: Device, wishes: Wishes = Wishes()) -> list[Proposal]:
    """The proposals for *device*, at least one for each scenario."""
    return [proposal for proposals in _PROPOSERS for proposal in proposals(device, wishes)]


def _ports(device: Device, _: Wishes) -> Iterator[Proposal]:
    entries = []
    for port in device.ports:
        holder = f"{quote(port.name)} {quote(port.executable)}"
        if port.protocol == "tcp" and device.clients[0] <= port.number <= device.clients[1]:
            low, high = device.clients
            entries.append((f"tcp {low}-{high} {holder}", f"{port.name} gets another port at each start"))
        if port.name in _DHCP_CLIENTS:
            entries += [(f"udp {number} {holder}", "its port is open now and then") for number in (68, 546)]
    yield Proposal(
        "ports",
        "external",
        "ports that can be reached from outside",
        (
            Setting("PORTS_SCOPE", "external", "what listens on loopback alone is no way in"),
            *_entries("PORTS_ALLOW", entries),
        ),
        learns=True,
    )


def _setuid(device: Device, _: Wishes) -> Iterator[Proposal]:
    yield Proposal(
        "setuid",
        "system",
        "executables that give their user more rights",
        (
            Setting("SETUID_XDEV", "no", "data partitions and memory file systems, too"),
            Setting("SETUID_EXCLUDE", _IMAGES_OF_CONTAINERS, "images have such files for their own users"),
        ),
        learns=True,
    )


def _process(device: Device, _: Wishes) -> Iterator[Proposal]:
    entries = [
        (f"{quote(path)} {what}", "")
        for path in device.interpreters
        for what in ((*_CODE.get(_kind(path), ()), "/usr/lib/**", "/usr/share/**"))
    ]
    why = ["shells with -c, and scripts of /usr/lib and /usr/share: cron, logins and packages use them"]
    if device.dpkg:
        entries += [(path, "") for path in _PACKAGE_SCRIPTS]
        why.append("the scripts of packages while apt works")
    if device.engines:
        entries += [(f"elsewhere:{folder}", "") for folder in ("/usr/**", "/bin/**", "/sbin/**")]
        why.append(f"the usual programs within containers ({', '.join(device.engines)})")
    shown = ", ".join(device.strange[:_NAMED])
    more = f" and {len(device.strange) - _NAMED} more" if len(device.strange) > _NAMED else ""
    yield Proposal(
        "process",
        "all",
        "every program that is started",
        (
            Setting(
                "PROCESS_LEARN",
                "running installed",
                f"the {device.programs} programs on the disk too: timers and logins start others than run "
                "now. A program that comes later is none of them, wherever it is",
            ),
            Setting("PROCESS_ALLOW", ", ".join(entry for entry, _ in entries), "; ".join(why)),
        ),
        (f"of no package, look at them: {shown}{more}",) if shown else (),
        learns=True,
    )


def _integrity(device: Device, _: Wishes) -> Iterator[Proposal]:
    settings = [
        Setting("INTEGRITY_FILES", CORE_FILES, "programs, and the libraries that all of them rest on")
    ]
    if device.root_kind in _UNSTEADY:
        why = f"on {device.root_kind} a file has another inode after a reboot"
        settings.append(Setting("INTEGRITY_INODE", "no", why))
    yield Proposal("integrity", "core", "the content of executables", tuple(settings), learns=True)


def _pid(device: Device, _: Wishes) -> Iterator[Proposal]:
    found: dict[str, tuple[Service, str]] = {}
    for service in device.services:
        if why := _worth_watching(device, service):
            found.setdefault(service.name, (service, why))
    for name, (service, why) in sorted(found.items()):
        if device.systemd and service.unit:
            setting = Setting("PID_SERVICE", service.unit.removesuffix(".service"), why)
        elif service.script:
            setting = Setting("PID_CMDLINE", f"(^| ){_escaped(service.script)}( |$)", why)
        else:
            setting = Setting("PID_EXE", service.executable, f"{why}; there is no systemd here to ask")
        yield Proposal("pid", name, f"restarts and the end of {name}", (setting,))
    if not found:
        yield Proposal("pid", left_out="no service with an open port, no sshd and no update client runs")


def _worth_watching(device: Device, service: Service) -> str:
    """Why a restart of *service* is worth an alert; empty: it is not."""
    if "@" in service.unit:
        return ""  # one of many
    if service.executable in device.update_client:
        return "it is the update client"
    if service.ports:
        return f"it can be reached from outside: {', '.join(service.ports[:3])}"
    if service.executable.endswith("/sshd"):
        return "it lets people in"
    if not (service.script or service.executable).startswith(("/usr/", "/bin/", "/sbin/", "/lib/")):
        return "it is an application of this device"
    return ""


def _traffic(device: Device, _: Wishes) -> Iterator[Proposal]:
    if not device.interfaces:
        yield Proposal("traffic", left_out="there is no network interface but loopback")
        return
    mobile = device.uplink.startswith(_MOBILE)
    limit = MOBILE_LIMIT if mobile else UPLOAD_LIMIT
    uplink = f"the default route, {device.uplink} now" if device.uplink else "the default route; none now"
    cost = "a mobile link costs" if mobile else "who copies data away, or attacks others, sends"
    yield Proposal(
        "traffic",
        "uplink",
        "bytes that are sent",
        (
            Setting("TRAFFIC_INTERFACE", "default", uplink),
            Setting("TRAFFIC_DIRECTION", "tx", "updates are received, and are none of it"),
            Setting("TRAFFIC_LIMIT", limit, f"a default, set it to what is usual here; {cost}"),
            Setting("TRAFFIC_WINDOW", "1h", "in any hour"),
        ),
    )


def _login(device: Device, wishes: Wishes) -> Iterator[Proposal]:
    if not device.login_ways:
        yield Proposal("login", left_out="there is no sshd, sudo or su")
        return
    if not device.journal and not device.auth_log:
        advice = "apt-get install rsyslog" if device.dpkg else "set up a syslog that writes /var/log/auth.log"
        yield Proposal(
            "login", left_out="logins are written nowhere: no journal, no /var/log/auth.log", advice=advice
        )
        return
    settings = []
    if not device.journal:
        settings.append(Setting("LOGIN_SOURCE", device.auth_log, "there is no journal"))
    if wishes.root_users:
        entries = [way for user in wishes.root_users for way in _ways(user)]
        settings.append(Setting("LOGIN_ALLOW", ", ".join(entries), "by --allow-login", asked=True))
    notes = () if wishes.root_users else ("nobody may become root without an alert: --allow-login USER",)
    ways = ", ".join(device.login_ways)
    yield Proposal("login", "root", f"logins as root: {ways}", tuple(settings), notes)


def _ways(user: str) -> tuple[str, ...]:
    """How *user* becomes root."""
    return ("ssh root", "console root") if user == "root" else (f"sudo {user}", f"su {user}")


def _wifi(device: Device, _: Wishes) -> Iterator[Proposal]:
    for name, ssid in ((one.name, one.ssid) for one in device.wireless):
        settings = [Setting("WIFI_INTERFACE", name, "it connects to access points")]
        notes: tuple[str, ...] = ()
        if ssid:
            settings.append(Setting("WIFI_SSID", ssid, "it is on it now"))
        else:
            notes = ("it is on no network now: the first one that it sees is learned, or set WIFI_SSID",)
        yield Proposal("wifi", name, f"the network that {name} is on", tuple(settings), notes)
    if not device.wireless:
        yield Proposal("wifi", left_out="no wireless interface that connects to access points")


def _vulnscan(device: Device, _: Wishes) -> Iterator[Proposal]:
    debian = device.distribution == "debian"
    if debian and "debsecan" in device.scanners:
        yield _scan("debsecan", "packages with known vulnerabilities", "daily")
    if "lynis" in device.scanners:
        yield _scan("lynis", "weak settings of the system", "weekly")
    if debian and "debsecan" not in device.scanners:
        left_out, advice = (
            "no vulnerability is looked up: debsecan is not installed",
            "apt-get install debsecan",
        )
        yield Proposal("vulnscan", left_out=left_out, advice=advice)
    elif not {"debsecan", "lynis"} & set(device.scanners):
        advice = "install lynis, or create a check for the scanner of yours: see docs/checks.md"
        yield Proposal("vulnscan", left_out="no scanner is installed", advice=advice)


def _scan(scanner: str, watches: str, schedule: str) -> Proposal:
    settings = (
        Setting("VULNSCAN_FORMAT", scanner, "it is installed, and is called as its format needs it"),
        Setting("VULNSCAN_SCHEDULE", schedule, "and now: monitorctl scan " + scanner),
    )
    return Proposal("vulnscan", scanner, watches, settings)


def _deployment(device: Device, _: Wishes) -> Iterator[Proposal]:
    if not device.update_client:
        yield Proposal("deployment", left_out="there is no update client")
        return
    yield Proposal("deployment", "mender", "deployments that fail or hang")


# The scenarios, in the order in which they are shown.
_PROPOSERS: tuple[Callable[[Device, Wishes], Iterator[Proposal]], ...] = (
    _ports,
    _setuid,
    _process,
    _integrity,
    _pid,
    _traffic,
    _login,
    _wifi,
    _vulnscan,
    _deployment,
)
_CODE = {"sh": ("-c",), "awk": ("-e",)}


def _kind(path: str) -> str:
    return "sh" if is_shell(path) else "awk" if path.rpartition("/")[2].endswith("awk") else ""


def _entries(name: str, entries: Sequence[tuple[str, str]]) -> Iterator[Setting]:
    """One setting of all *entries* with their reasons, each once; nothing without any."""
    if entries:
        values, reasons = (
            dict.fromkeys(entry for entry, _ in entries),
            dict.fromkeys(why for _, why in entries),
        )
        yield Setting(name, ", ".join(values), "; ".join(reasons))


def _escaped(text: str) -> str:
    """*text* as a regular expression that matches it."""
    return "".join(
        character if character.isalnum() or character in "/_-" else f"\\{character}" for character in text
    )
