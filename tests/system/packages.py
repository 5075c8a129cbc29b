"""Our Debian packages, variants of them, and a package with the files of the original add-on."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.system.image import CACHE

SOURCE = Path(__file__).resolve().parents[2]
MAIN, DEMO, RECEIVER = "mender-monitor-py", "mender-monitor-py-demo", "mender-monitor-receiver"

# Every path of the original's packages, as its recipes name them.
LIBRARY = (
    "alert", "array", "buf", "confpush", "ctl", "expiry", "fixlenstore", "log", "mender-client", "monitor",
    "service", "subsystem-storage", "time",
)  # fmt: skip
ORIGINAL = (
    "usr/bin/mender-monitord",
    "usr/bin/mender-monitorctl",
    "lib/systemd/system/mender-monitor.service",
    *(f"etc/mender-monitor/monitor.d/{name}.sh" for name in ("service", "log", "dbus")),
    *(f"usr/share/mender-monitor/{name}" for name in (".version", "ctl.sh", "daemon.sh")),
    *(f"usr/share/mender-monitor/{name}" for name in ("mender-monitorctl", "mender-monitord")),
    *(f"usr/share/mender-monitor/common/{name}.sh" for name in ("common", "log", "setup")),
    *(f"usr/share/mender-monitor/lib/{name}-lib.sh" for name in LIBRARY),
    "usr/share/mender-monitor/config/config.sh",
)
DEMO_CHECKS = (
    "connectivity_example.sh",
    "diskusage_root_space.sh",
    "log_mender_client.sh",
    "log_mender_connect.sh",
    "log_usb_disconnect.sh",
)
ORIGINAL_CONFIG = """\
# The original's own.
ALERT_URL="$SERVER_URL/api/devices/v1/devicemonitor/alert"
DEFAULT_LOG_LINES_BEFORE=30
FLAPPING_INTERVAL=100
FLAPPING_COUNT_THRESHOLD=8
SOMETHING_OF_ITS_OWN=5
"""


def built() -> dict[str, Path]:
    """Our packages by name, built by scripts/build-deb unless they are newer than all sources."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build-deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _up_to_date():
            done = subprocess.run(
                [SOURCE / "scripts/build-deb"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"scripts/build-deb failed:\n{done.stdout[-3000:]}")
        return {deb.name.partition("_")[0]: deb for deb in (SOURCE / "dist").glob("*.deb")}


def _up_to_date() -> bool:
    made = [deb.stat().st_mtime for deb in (SOURCE / "dist").glob("*.deb")]
    folders = (
        "debian",
        "docs/man",
        "mender_monitor_py",
        "monitor-available",
        "monitor-demo",
        "monitor-enabled",
    )
    sources = [SOURCE / "setup.cfg", SOURCE / "README.md"]
    for folder in (*folders, "scripts"):
        sources += [path for path in (SOURCE / folder).rglob("*") if "__pycache__" not in path.parts]
    return len(made) == 3 and min(made) > max(path.lstat().st_mtime for path in sources)


def changed(deb: Path, folder: Path, version: str, change: Callable[[Path], None] = lambda _: None) -> Path:
    """*deb* as another *version*, after *change* was made to its files; the result is in *folder*."""
    files = folder / f"{deb.stem}-{version}"
    _run("dpkg-deb", "--raw-extract", str(deb), str(files))
    control = files / "DEBIAN/control"
    # Those of our packages that depend on each other do so on the same version.
    text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text())
    control.write_text(re.sub(rf"({MAIN}) \(= [^)]*\)", rf"\1 (= {version})", text))
    change(files)
    return _packed(files, folder / f"{deb.name.partition('_')[0]}_{version}_all.deb")


def original(folder: Path) -> Path:
    """A package like the original: its name, its files, and maintainer scripts as debhelper makes them."""
    files = folder / "mender-monitor"
    for path in ORIGINAL:
        target = files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(ORIGINAL_CONFIG if path.endswith("config.sh") else "#!/bin/bash\nsleep infinity\n")
        target.chmod(0o755 if target.suffix != ".service" else 0o644)
    for name in ("available", "enabled"):
        (files / "etc/mender-monitor/monitor.d" / name).mkdir()
    unit = "[Service]\nExecStart=/usr/bin/mender-monitord\n[Install]\nWantedBy=multi-user.target\n"
    (files / "lib/systemd/system/mender-monitor.service").write_text(unit)
    _control(files, "mender-monitor", "Depends: bash")
    link = "/etc/systemd/system/multi-user.target.wants/mender-monitor.service"
    runs = "[ -d /run/systemd/system ]"
    _script(
        files,
        "postinst",
        f"systemctl -q enable mender-monitor; {runs} && systemctl start mender-monitor || true",
    )
    _script(files, "prerm", f"{runs} && systemctl stop mender-monitor || true")
    _script(files, "postrm", f'[ "$1" != purge ] || rm -f {link}')
    return _packed(files, folder / "mender-monitor_1.4.3-1+debian_all.deb")


def original_demo(folder: Path) -> Path:
    """The same for its demo: the checks are conffiles, the links of the enabled ones are plain files."""
    files = folder / "mender-monitor-demo"
    monitor_d = files / "etc/mender-monitor/monitor.d"
    (monitor_d / "available").mkdir(parents=True)
    (monitor_d / "enabled").mkdir()
    for name in DEMO_CHECKS:
        (monitor_d / "available" / name).write_text(f"# the original's {name}\n")
        (monitor_d / "enabled" / name).symlink_to(f"/etc/mender-monitor/monitor.d/available/{name}")
    for name in ("diskusage.sh", "connectivity.sh"):
        (monitor_d / name).write_text("#!/bin/bash\n")
    _control(files, "mender-monitor-demo", "Depends: mender-monitor (= 1.4.3-1+debian)")
    return _packed(files, folder / "mender-monitor-demo_1.4.3-1+debian_all.deb")


def _control(files: Path, name: str, relations: str) -> None:
    control = files / "DEBIAN"
    control.mkdir()
    fields = (f"Package: {name}", "Version: 1.4.3-1+debian", "Architecture: all", relations)
    (control / "control").write_text(
        "\n".join([*fields, "Maintainer: x <x@example.com>", "Description: x", ""])
    )
    in_etc = sorted(p for p in (files / "etc").rglob("*") if p.is_file() and not p.is_symlink())
    (control / "conffiles").write_text("".join(f"/{path.relative_to(files)}\n" for path in in_etc))
    _run("sh", "-c", "find etc usr lib -type f 2>/dev/null | xargs md5sum >DEBIAN/md5sums", cwd=files)


def _script(files: Path, name: str, text: str) -> None:
    script = files / "DEBIAN" / name
    script.write_text(f"#!/bin/sh\nset -e\n{text}\n")
    script.chmod(0o755)


def _packed(files: Path, deb: Path) -> Path:
    _run("dpkg-deb", "--root-owner-group", "--build", str(files), str(deb))
    shutil.rmtree(files)
    return deb


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)


def update_client(folder: Path) -> Path:
    """A package with the program of the newer update client, which Debian has not."""
    files = folder / "mender-update"
    program = files / "usr/bin/mender-update"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (files / "etc").mkdir()
    _control(files, "mender-update", "Section: admin")
    return _packed(files, folder / "mender-update_5.1.0_all.deb")
