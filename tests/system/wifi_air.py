"""
Runs in the virtual machine: two radios of mac80211_hwsim, one with many access points, one with a station.

hostapd and wpa_supplicant as they are on devices. Standard library only, apart from the product's netlink.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, Self

from mender_monitor_py import nl80211
from mender_monitor_py.host.netlinksocket import NetlinkSocket
from mender_monitor_py.netlinkmessages import HEADER, attribute, messages

AP, STA = "wlan0", "wlan1"
FREQUENCY = 2437
PASSPHRASE = "correct horse"
CONNECT_SECONDS = 120.0
RAW_SSID = bytes(range(1, 24)) + b'"\\ \xff\xfe\xe2\x80\xae' + b"!"
_WORK = Path("/run/wifi-air")
_NEW_RADIO, _DEL_RADIO, _RADIO_ID = 4, 5, 10


class Point(NamedTuple):
    """An access point: its BSSID, SSID, and lines of hostapd and of wpa_supplicant."""

    bssid: str
    ssid: bytes
    hostapd: str
    network: str


def _wpa2(passphrase: str = PASSPHRASE, more: str = "") -> str:
    return (
        f"wpa=2\nwpa_key_mgmt=WPA-PSK\nrsn_pairwise=CCMP\nwpa_passphrase={passphrase}\n"
        # A slow guest misses the handshake's default of 4 tries.
        f"wpa_pairwise_update_count=40\n{more}"
    )


_PSK = f'key_mgmt=WPA-PSK\npsk="{PASSPHRASE}"'
_SAE = "wpa=2\nrsn_pairwise=CCMP\nwpa_passphrase=correct horse\nwpa_pairwise_update_count=40\n"
_KINDS: dict[str, tuple[bytes, str, str]] = {
    "floor": (b"plant-floor", _wpa2(), _PSK),
    "floor2": (b"plant-floor", _wpa2(), _PSK),
    "twin": (b"plant-floor", _wpa2(), _PSK),
    "open": (b"plant-floor", "", "key_mgmt=NONE"),
    "cafe": (b"Caf\xc3\xa9 upstairs", _wpa2(), _PSK),
    "raw": (RAW_SSID, _wpa2(), _PSK),
    "hidden": (b"dark-floor", _wpa2(more="ignore_broadcast_ssid=1\n"), f"{_PSK}\nscan_ssid=1"),
    "wpa": (
        b"plant-floor",
        _wpa2().replace("wpa=2", "wpa=1").replace("rsn_pairwise=CCMP", "wpa_pairwise=TKIP"),
        f"{_PSK}\nproto=WPA\npairwise=TKIP\ngroup=TKIP",
    ),
    "wpa3": (
        b"plant-floor",
        f"{_SAE}wpa_key_mgmt=SAE\nieee80211w=2\n",
        f'key_mgmt=SAE\nsae_password="{PASSPHRASE}"\nieee80211w=2',
    ),
    "transition": (b"plant-floor", f"{_SAE}wpa_key_mgmt=WPA-PSK SAE\nieee80211w=1\n", _PSK),
    "owe": (
        b"owe-floor",
        "wpa=2\nwpa_key_mgmt=OWE\nrsn_pairwise=CCMP\nieee80211w=2\nwpa_pairwise_update_count=40\n",
        "key_mgmt=OWE\nieee80211w=2",
    ),
    "wrong": (b"plant-floor", _wpa2("another passphrase"), _PSK),
}
POINTS = {
    name: Point(f"02:00:00:00:00:{number:02x}", *kind) for number, (name, kind) in enumerate(_KINDS.items())
}


class Air:
    """The radios, with all access points on the air; a context manager. The station is not connected yet."""

    def __init__(self) -> None:
        self._hostapd: subprocess.Popen[bytes] | None = None
        self._supplicant: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        _WORK.mkdir()
        # Events wait until somebody reads them; wpa_supplicant ends the subscription of whoever has no room.
        Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512\n")
        subprocess.run(["modprobe", "mac80211_hwsim", "radios=2"], check=True)
        lines = [f"interface={AP}", "driver=nl80211", "hw_mode=g", "channel=6"]
        for number, point in enumerate(POINTS.values()):
            lines += [f"bss={AP}_{number}"] if number else []
            lines += [f"bssid={point.bssid}", f"ssid2={point.ssid.hex()}", point.hostapd]
        (_WORK / "hostapd.conf").write_text("\n".join(lines))
        self._hostapd = _start("hostapd", str(_WORK / "hostapd.conf"), until="AP-ENABLED")
        self._start_supplicant()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_supplicant()
        if self._hostapd is not None:
            self._hostapd.terminate()
            self._hostapd.wait()

    def connect(self, name: str) -> None:
        """Have the station on this access point: the keys are exchanged. Raises TimeoutError."""
        self.choose(name)
        self.wait("CTRL-EVENT-CONNECTED", POINTS[name].bssid)

    def choose(self, name: str) -> None:
        """Have the station try this access point."""
        number = list(POINTS).index(name)
        self._ask(f"BSSID {number} {POINTS[name].bssid}")  # a roam may have changed it
        self._ask(f"SELECT_NETWORK {number}")

    def roam(self, name: str) -> None:
        """The station goes to another access point of the network it is on."""
        self._ask(f"BSSID {list(POINTS).index('floor')} {POINTS[name].bssid}")
        self._ask("SCAN freq=2437")
        self.wait("CTRL-EVENT-SCAN-RESULTS", "")
        self._ask(f"ROAM {POINTS[name].bssid}")
        self.wait("CTRL-EVENT-CONNECTED", POINTS[name].bssid)

    def disconnect(self) -> None:
        self._ask("DISCONNECT")

    def reconnect(self) -> None:
        self._ask("RECONNECT")
        self.wait("CTRL-EVENT-CONNECTED", "")

    def block(self, blocked: bool) -> None:
        """Switch the station's radio off and on, as rfkill does."""
        (switch,) = Path(f"/sys/class/net/{STA}/phy80211").glob("rfkill*/soft")
        switch.write_text("1" if blocked else "0")

    def unplug(self) -> None:
        """The station's radio is gone, as when an adapter is pulled out."""
        number = int(Path(f"/sys/class/net/{STA}/phy80211/index").read_text())
        _hwsim(_DEL_RADIO, attribute(_RADIO_ID, number.to_bytes(4, sys.byteorder)))
        self._stop_supplicant()

    def plug(self) -> None:
        """A radio is there again, under the same name."""
        _hwsim(_NEW_RADIO)
        end = time.monotonic() + CONNECT_SECONDS
        while not Path(f"/sys/class/net/{STA}").exists() and time.monotonic() < end:
            time.sleep(0.02)
        self._start_supplicant()

    def wait(self, event: str, bssid: str) -> None:
        """Until wpa_supplicant tells *event*, of *bssid*. Raises TimeoutError."""
        assert self._control is not None
        end = time.monotonic() + CONNECT_SECONDS
        heard: list[str] = []
        while True:
            self._control.settimeout(max(end - time.monotonic(), 0.01))
            try:
                line = self._control.recv(65_536).decode(errors="replace")
            except TimeoutError:
                raise TimeoutError(f"no {event} {bssid} but {heard}") from None
            heard.append(line)
            if event in line and bssid in line:
                return

    def _start_supplicant(self) -> None:
        lines = ["ctrl_interface=/run/wpa_supplicant", "p2p_disabled=1"]
        for point in POINTS.values():
            lines += [
                "network={", f"ssid={point.ssid.hex()}", f"bssid={point.bssid}", point.network,
                f"scan_freq={FREQUENCY}", "disabled=1", "}",
            ]  # fmt: skip
        (_WORK / "station.conf").write_text("\n".join(lines))
        self._supplicant = _start(
            "wpa_supplicant", "-i", STA, "-D", "nl80211", "-c", str(_WORK / "station.conf"),
            until="initialized",
        )  # fmt: skip
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        own = _WORK / "control"
        own.unlink(missing_ok=True)
        self._control.bind(str(own))
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self._control.connect(f"/run/wpa_supplicant/{STA}")
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < end, (_WORK / "wpa_supplicant.log").read_text()
                time.sleep(0.02)
        self._ask("ATTACH")

    def _stop_supplicant(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._supplicant is not None:
            self._supplicant.terminate()
            self._supplicant.wait()

    def _ask(self, command: str) -> None:
        assert self._control is not None
        self._control.settimeout(CONNECT_SECONDS)
        self._control.send(command.encode())
        while (answer := self._control.recv(65_536)).startswith(b"<"):
            pass  # an event of what was before
        assert answer.startswith(b"OK"), (command, answer)


def _start(program: str, *arguments: str, until: str) -> subprocess.Popen[bytes]:
    """Start a daemon; it is there when its log says *until*."""
    log = _WORK / f"{program}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
    end = time.monotonic() + CONNECT_SECONDS
    while until not in log.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.02)
    return process


def _hwsim(command: int, attributes: bytes = b"") -> None:
    """A command of mac80211_hwsim; <drivers/net/wireless/mac80211_hwsim.h> in the kernel's sources."""
    generic, acknowledged = 16, 0x5  # NETLINK_GENERIC; NLM_F_REQUEST | NLM_F_ACK
    kernel = NetlinkSocket(generic)
    families = kernel.dump(nl80211.GENL_ID_CTRL, nl80211.request(nl80211.CTRL_GET_FAMILY))
    kernel.close()
    family = next(filter(None, (nl80211.family(one.body, "MAC80211_HWSIM") for one in families)))
    body = nl80211.request(command, attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, generic) as connection:
        connection.settimeout(CONNECT_SECONDS)
        connection.send(HEADER.pack(HEADER.size + len(body), family.number, acknowledged, 1, 0) + body)
        (answer,) = messages(connection.recv(65_536))
        # A new radio is answered by its number.
        status = int.from_bytes(answer.body[:4], sys.byteorder, signed=True)
        assert status >= 0, os.strerror(-status)
