"""
What the virtual machine of the tests boots: Debian's kernel, an initrd, and a disk with a root of a device.

Built once, kept in the user's cache. The kernel is unpacked, not installed: no boot loader is needed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import vmagent
from tests.system.image import CACHE, KEEP_SECONDS, base, run

SUITE = "bookworm"
KERNEL = "linux-image-amd64"  # the "cloud" kernel has no Wi-Fi
PACKAGES = ("hostapd", "iw", "kmod", "wpasupplicant")
MASKED = ("hostapd.service", "serial-getty@ttyS0.service", "wpa_supplicant.service")
DISK_SIZE = "2G"  # sparse
# Of 390 MB of modules these are there, with what they need.
MODULES = (
    "mac80211_hwsim", "aes_generic", "ccm", "cmac", "ctr", "gcm", "michael_mic",
    "9p", "9pnet_virtio", "autofs4", "binfmt_misc", "virtio_console",
    "dummy", "inet_diag", "overlay", "tcp_diag", "udp_diag", "unix_diag", "veth", "virtio_net",
)  # fmt: skip
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

AGENT = "/usr/local/sbin/vm-agent"
PLAIN_INIT = "/usr/local/sbin/vm-init"
# On Debian's kernel the disk's driver and ext4 are modules.
_INITRD_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done </modules
init=/sbin/init
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        vm.init=*) init=${word#vm.init=} ;;
    esac
done
while [ ! -b "$root" ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o rw "$root" /mnt
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /mnt/dev
exec /bin/busybox switch_root /mnt "$init"
"""
_START_AGENT = f"""#!/bin/sh
modprobe -a virtio_console 9pnet_virtio 9p
mkdir -p /mnt/host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 host /mnt/host
# Named after the number of the device on its bus.
until set -- /dev/vport*p1 && [ -c "$1" ]; do sleep 0.1; done
exec python3 -B {AGENT}.py "$1"
"""
_PLAIN_INIT = f"""#!/bin/sh
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname -F /etc/hostname
ip link set lo up
{AGENT}
poweroff -ff
"""
_AGENT_UNIT = f"""[Unit]
Description=Runs what the tests ask for
[Service]
ExecStart={AGENT}
[Install]
WantedBy=multi-user.target
"""


def vm_image() -> Path:
    """
    A folder with ``vmlinuz``, ``initrd.gz`` and ``root.ext4``.

    It is made when it is not there: half a minute beside the device's own root (:func:`base`). Needs root and
    the package archive. Raises RuntimeError with the end of the output when that fails.
    """
    lower = base(SUITE)
    texts = (Path(__file__).read_text(), Path(vmagent.__file__).read_text())
    recipe = hashlib.sha256(repr((lower.name, texts)).encode()).hexdigest()[:12]
    home = CACHE / "machines"
    home.mkdir(parents=True, exist_ok=True)
    ready = home / f"{SUITE}-{recipe}"
    with (home / f"{SUITE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            for old in home.glob(f"{SUITE}-*"):
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    shutil.rmtree(old)
            building = home / f"building-{SUITE}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            with _layer(lower) as root:
                _build(root, building)
            building.rename(ready)
        os.utime(ready)
    return ready


@contextmanager
def _layer(lower: Path) -> Iterator[Path]:
    """A root file system over *lower*, which stays as it is."""
    folder = Path(tempfile.mkdtemp(prefix="mmp-vm-"))
    try:
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        root = folder / "root"
        options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
        try:
            yield root
        finally:
            run("umount", str(root))
    finally:
        shutil.rmtree(folder)


def _build(root: Path, out: Path) -> None:
    kernel = root / "tmp/kernel"
    _install(root, kernel)
    (release,) = [found.name for found in (kernel / "lib/modules").iterdir()]
    shutil.copy(kernel / f"boot/vmlinuz-{release}", out / "vmlinuz")
    run("chroot", str(root), "depmod", "-b", "/tmp/kernel", release)
    for path in _needed(root, release, MODULES):
        _copy(kernel / path, root / path)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(kernel / f"lib/modules/{release}/{name}", root / f"lib/modules/{release}/{name}")
    run("chroot", str(root), "depmod", release)
    _pack_initrd(kernel, _needed(root, release, BOOT_MODULES), out / "initrd.gz")
    shutil.rmtree(kernel)

    _script(root, AGENT, _START_AGENT)
    _script(root, PLAIN_INIT, _PLAIN_INIT)
    shutil.copy(vmagent.__file__, root / f"{AGENT}.py".lstrip("/"))
    (root / "etc/systemd/system/vm-agent.service").write_text(_AGENT_UNIT)
    run("chroot", str(root), "systemctl", "enable", "vm-agent")
    run("chroot", str(root), "systemctl", "mask", *MASKED)
    (root / "etc/hostname").write_text("device\n")
    (root / "etc/fstab").write_text("")
    # Made without a mount. It is thrown away after each boot: a journal would be of no use.
    run("mkfs.ext4", "-q", "-d", str(root), "-O", "^has_journal", str(out / "root.ext4"), DISK_SIZE)


def _install(root: Path, kernel: Path) -> None:
    """The packages, and the unpacked kernel with a busybox for the initrd."""
    _script(root, "/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # invoke-rc.d(8): start nothing
    inside = ("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive")
    run(*inside, "apt-get", "update")
    run(*inside, "apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)
    depends = run(*inside, "apt-cache", "depends", KERNEL)
    image = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    run(*inside, "sh", "-c", f"cd /tmp && apt-get download {image} busybox-static")
    for deb in (root / "tmp").glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(kernel))
        deb.unlink()
    run(*inside, "apt-get", "clean")
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "usr/sbin/policy-rc.d").unlink()


def _needed(root: Path, release: str, modules: Iterable[str]) -> list[Path]:
    """The files of *modules* and of what they need, in the order to load them, below the kernel's root."""
    found: dict[Path, None] = {}
    for module in modules:
        command = ("modprobe", "-d", "/tmp/kernel", "-S", release, "--show-depends", module)
        for line in run("chroot", str(root), *command).splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod":  # others are built in
                found[Path(path.split()[0]).relative_to("/tmp/kernel")] = None
    return list(found)


def _pack_initrd(kernel: Path, modules: list[Path], archive: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("proc", "dev", "mnt"):
            (root / folder).mkdir()
        _copy(kernel / "bin/busybox", root / "bin/busybox")
        for path in modules:
            _copy(kernel / path, root / path)
        (root / "modules").write_text("".join(f"/{path}\n" for path in modules))
        _script(root, "/init", _INITRD_INIT)
        names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        packed = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            cwd=root,
            input=names.encode(),
            stdout=subprocess.PIPE,
            check=True,
        )
        archive.write_bytes(gzip.compress(packed.stdout, 1))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _script(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.write_text(text)
    file.chmod(0o755)
