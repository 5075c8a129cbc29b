"""What there is on this device that a security check could watch."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mender_monitor_py import wifiwatch
from mender_monitor_py.commandline import is_interpreter
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import programs, wireless
from mender_monitor_py.host.images import Images
from mender_monitor_py.host.mounts import read_mounts
from mender_monitor_py.host.openports import OpenPorts
from mender_monitor_py.host.procfs import Procfs, unit_of
from mender_monitor_py.host.replaced import Replaced
from mender_monitor_py.portlist import PROTOCOLS, Listener
from mender_monitor_py.proposals import Device, OpenPort, Service, Wireless

_LOGIN_WAYS = ("sshd", "sudo", "su")
_SCANNERS = ("debsecan", "lynis", "trivy", "grype", "osv-scanner")
_UPDATE_CLIENT = ("mender", "mender-auth", "mender-update")
_ENGINES = ("dockerd", "containerd", "podman", "crio", "balenad")
_AUTH_LOGS = ("/var/log/auth.log", "/var/log/secure")
_JOURNALS = ("/run/log/journal", "/var/log/journal")
_OURS = "mender-monitor"
_IFF_LOOPBACK = "lo"


def look() -> Device:
    """
    The survey of this device. Needs root to be whole.

    Raises UnknownError when the kernel does not tell the open ports, or who holds them.
    """
    procfs = Procfs()
    listeners = _listeners(procfs)
    installed = [one.path for one in programs.installed()]
    packages = programs.package_files()
    named = {path.rpartition("/")[2]: path for path in installed}
    running = {executable for pid in procfs.pids() if (executable := _executable(procfs, pid))}
    interfaces = tuple(sorted(name for _, name in socket.if_nameindex() if name != _IFF_LOOPBACK))
    return Device(
        systemd=Path("/run/systemd/system").is_dir(),  # sd_booted(3)
        distribution=_distribution(),
        dpkg=bool(packages),
        root_kind=next((mount.kind for mount in reversed(read_mounts()) if mount.path == "/"), ""),
        ports=tuple(sorted(_ports(listeners), key=lambda port: (port.protocol, port.number))),
        clients=_client_ports(),
        services=tuple(_services(procfs, listeners)),
        programs=len(installed),
        strange=tuple(path for path in installed if packages and path not in packages),
        interpreters=tuple(path for path in installed if is_interpreter(path)),
        engines=tuple(name for name in _ENGINES if any(one.endswith(f"/{name}") for one in running)),
        interfaces=interfaces,
        uplink=uplink(_text("/proc/net/route"), _text("/proc/net/ipv6_route")),
        wireless=tuple(_wireless(interfaces)),
        login_ways=tuple(name for name in _LOGIN_WAYS if name in named),
        journal=any(Path(folder).is_dir() for folder in _JOURNALS),
        auth_log=next((path for path in _AUTH_LOGS if Path(path).is_file()), ""),
        scanners=tuple(name for name in _SCANNERS if name in named),
        update_client=tuple(named[name] for name in _UPDATE_CLIENT if name in named),
    )


def uplink(routes: str, routes6: str) -> str:
    """The interface of the default route, by the texts of /proc/net/route and ipv6_route; see proc(5)."""
    found = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000":
            found.append((int(fields[6]), fields[0]))
    for line in routes6.splitlines() if not found else ():
        fields = line.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != _IFF_LOOPBACK:
            found.append((int(fields[5], 16), fields[9]))
    return min(found)[1] if found else ""


def _listeners(procfs: Procfs) -> list[Listener]:
    ports = OpenPorts(procfs, Replaced(procfs), PROTOCOLS, all_namespaces=False)
    try:
        return ports.look(lambda one: not one.loopback and not one.ephemeral, again=True) or []
    finally:
        ports.close()


def _ports(listeners: Iterable[Listener]) -> set[OpenPort]:
    found = set()
    for one in listeners:
        holder = one.holders[0] if one.holders else None
        name, executable = (holder.name, holder.executable) if holder else ("", "")
        found.add(OpenPort(one.protocol, one.number, name, executable))
    return found


def _services(procfs: Procfs, listeners: Iterable[Listener]) -> list[Service]:
    """The first process of each unit; without units, the children of the first process."""
    ports: dict[str, set[str]] = {}
    found: dict[str, Service] = {}
    unit_names = {pid: _unit(procfs, pid) for pid in sorted(procfs.pids()) if pid != 1}
    for one in listeners:
        for holder in one.holders:
            ports.setdefault(unit_names.get(holder.pid) or holder.executable, set()).add(one.port)
    images = Images(procfs, scripts=True, kernel_threads=False)
    for pid, unit in unit_names.items():
        executable, stat = _executable(procfs, pid), procfs.stat(pid)
        if executable and stat is not None and (unit or stat.parent == 1) and not unit.startswith(_OURS):
            script = images.script(pid, executable) or ""
            key = unit or executable
            held = tuple(sorted(ports.get(key, ())))
            found.setdefault(key, Service(executable, unit, held, script if script.startswith("/") else ""))
    return list(found.values())


def _unit(procfs: Procfs, pid: int) -> str:
    """The service of the system that *pid* belongs to; empty for sessions, and services of users."""
    cgroup = procfs.cgroup(pid)
    unit = unit_of(cgroup)
    return unit if unit.endswith(".service") and "/user.slice/" not in cgroup else ""


def _wireless(interfaces: Iterable[str]) -> Iterator[Wireless]:
    """Those of *interfaces* that connect to access points."""
    for name in interfaces:
        if Path("/sys/class/net", name, "phy80211").exists():
            with suppress(UnknownError):  # an access point itself, as a rule
                network = wireless.look(name).network
                yield Wireless(name, wifiwatch.shown(network.ssid) if network else "")


def _executable(procfs: Procfs, pid: int) -> str:
    try:
        return procfs.executable(pid) or ""
    except PermissionError:
        return ""


def _client_ports() -> tuple[int, int]:
    low, high = (_text("/proc/sys/net/ipv4/ip_local_port_range") or "32768 60999").split()
    return int(low), int(high)


def _distribution() -> str:
    found = re.search(r'^ID="?([\w.-]+)"?$', _text("/etc/os-release"), re.MULTILINE)
    return found[1] if found else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
