"""
A device with two slots for its root file system, as an A/B update of Mender's needs it, as a virtual machine.

Its disk has three partitions in use: 2 and 3 are the slots, 4 has the data. There is no boot loader in it:
:meth:`TwoSlots.boot` decides as U-Boot with Mender's integration does. The loader's environment is the file
``boot.env`` of the shared folder, for the stand-ins of ``fw_printenv`` and ``fw_setenv`` on the device.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.chroot import Chroot
from tests.system.product import write
from tests.system.updating import SETTINGS
from tests.system.vm import SHARED, Vm
from tests.system.vmimage import vm_image

MIB = 1024 * 1024
SECTOR = 512
# Number: begin and size.
PARTITIONS = {
    1: (1 * MIB, 7 * MIB),
    2: (8 * MIB, 640 * MIB),
    3: (648 * MIB, 640 * MIB),
    4: (1288 * MIB, 256 * MIB),
}
DATA = 4
LINUX = 0x83
BOOT_LIMIT = 1
# A slot is copied under emulation, byte by byte.
LEFT_OUT = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
)

_ENVIRONMENT = f"{SHARED}/boot.env"
_PRINTENV = f"""#!/bin/sh
until [ -e {_ENVIRONMENT} ]; do sleep 0.1; done
[ $# -gt 0 ] || exec cat {_ENVIRONMENT}
for name; do
    grep "^$name=" {_ENVIRONMENT} || {{ echo "## Error: \\"$name\\" not defined" >&2; exit 1; }}
done
"""
_SETENV = f"""#!/bin/sh
# fw_setenv -s -: a variable a line.
until [ -e {_ENVIRONMENT} ]; do sleep 0.1; done
while read -r line; do
    name=${{line%%[= ]*}}
    value=${{line#"$name"}}
    {{ grep -v "^$name=" {_ENVIRONMENT}; echo "$name=${{value#[= ]}}"; }} >{_ENVIRONMENT}.new
    mv {_ENVIRONMENT}.new {_ENVIRONMENT}
done
"""
# Without udev a mount unit would wait for its device for ever.
_DATA_UNIT = f"""[Unit]
DefaultDependencies=no
Before=local-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount /dev/vda{DATA} /data
ExecStart=/bin/mount --bind /data/mender-monitor /var/lib/mender-monitor
ExecStart=/bin/mount --bind /data/baseline.d /etc/mender-monitor/baseline.d
[Install]
WantedBy=local-fs.target
"""
_NETWORK_UNIT = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/modprobe virtio_net
ExecStart=/bin/ip address add 10.0.2.15/24 dev eth0
ExecStart=/bin/ip link set eth0 up
[Install]
WantedBy=multi-user.target
"""


class TwoSlots(Vm):
    """The device; a context manager. *disk* is of :func:`make_disk`."""

    def __init__(self, share: Path, disk: Path) -> None:
        super().__init__(share, init="systemd", disk=disk, network=True)
        self.booted: list[int] = []
        self._set(
            {"mender_boot_part": "2", "mender_boot_part_hex": "2", "upgrade_available": "0", "bootcount": "0"}
        )

    @property
    def environment(self) -> dict[str, str]:
        """The boot loader's."""
        lines = (self.share / "boot.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def boot(self) -> None:
        """
        Load the slot that the environment names. A new one has one attempt, and then the old one is the right
        one.
        """
        known = self.environment
        if known["upgrade_available"] == "1":
            count = int(known["bootcount"]) + 1
            known["bootcount"] = str(count)
            if count > BOOT_LIMIT:
                other = str(5 - int(known["mender_boot_part"]))
                known |= {"mender_boot_part": other, "mender_boot_part_hex": other}
                known |= {"upgrade_available": "0", "bootcount": "0"}
            self._set(known)
        slot = int(known["mender_boot_part"])
        self.booted.append(slot)
        self.root = f"/dev/vda{slot}"
        try:
            super().boot()
        except AssertionError:
            if known["upgrade_available"] == "0":
                raise
            self.boot()

    def _set(self, values: dict[str, str]) -> None:
        (self.share / "boot.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def prepare_slots(root: Chroot, url: str) -> None:
    """Both slots have this: the update client with two slots, its server at *url*, and the data mounted."""
    for name, text in (("fw_printenv", _PRINTENV), ("fw_setenv", _SETENV)):
        write(root.path(f"/usr/bin/{name}"), text)
        root.path(f"/usr/bin/{name}").chmod(0o755)
    for name, text in (("data", _DATA_UNIT), ("network", _NETWORK_UNIT)):
        write(root.path(f"/etc/systemd/system/{name}.service"), text)
        root.sh(f"systemctl --quiet enable {name}.service")
    settings = {"ServerURL": url, "RootfsPartA": "/dev/vda2", "RootfsPartB": "/dev/vda3", **SETTINGS}
    write(root.path("/etc/mender/mender.conf"), json.dumps(settings))
    root.sh("mkdir -p /etc/mender-monitor/baseline.d /var/lib/mender-monitor")
    root.path("/etc/fstab").write_text("")


def make_slot(image: Path, archive: Path, furnish: Callable[[Path], object]) -> None:
    """Make *image*, a root file system: the machine's own, with *archive*, and what *furnish* does to it."""
    subprocess.run(["cp", "--sparse=always", str(vm_image() / "root.ext4"), str(image)], check=True)
    with _mounted(image) as root:
        for path in LEFT_OUT:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir()
        subprocess.run(["tar", "--extract", f"--file={archive}", f"--directory={root}"], check=True)
        furnish(root)
    subprocess.run(["e2fsck", "-fy", str(image)], stdout=subprocess.DEVNULL, check=False)
    done = subprocess.run(["resize2fs", "-M", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert image.stat().st_size <= PARTITIONS[2][1]


def make_disk(disk: Path, slot: Path, data: Path) -> None:
    """The file *disk*: the first slot has *slot*, the data partition what is in the folder *data*."""
    begin, size = PARTITIONS[DATA]
    with disk.open("wb") as file:
        file.truncate(begin + size)
        file.write(bytes(446))
        for start, length in PARTITIONS.values():
            file.write(struct.pack("<4xB3xII", LINUX, start // SECTOR, length // SECTOR))
        file.write(b"\x55\xaa")
    _put(disk, slot, PARTITIONS[2][0])
    made = disk.with_suffix(".data")
    subprocess.run(["mkfs.ext4", "-q", "-d", str(data), str(made), f"{size // MIB}M"], check=True)
    _put(disk, made, begin)
    made.unlink()


def _put(disk: Path, image: Path, begin: int) -> None:
    copy = [
        "dd",
        f"if={image}",
        f"of={disk}",
        "bs=1M",
        f"seek={begin // MIB}",
        "conv=notrunc,sparse",
        "status=none",
    ]
    subprocess.run(copy, check=True)


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    root = image.with_suffix(".root")
    root.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
        root.rmdir()
