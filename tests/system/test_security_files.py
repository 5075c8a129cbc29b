"""Set-uid executables, changed executables and signed lists on a booted device, by the daemon in its unit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.host.host import Host
from mender_monitor_py.model import CheckId
from mender_monitor_py.paths import Paths
from mender_monitor_py.settings import Settings
from mender_monitor_py.subsystems.base import Definition
from mender_monitor_py.subsystems.integrity import IntegrityCheck
from mender_monitor_py.subsystems.setuid import SetuidCheck
from tests.fakes.mounts import in_own_mounts, mount
from tests.fakes.watched import watched
from tests.system.device import WAIT_SECONDS
from tests.system.product import Site

FILES = 200_000


def set_uid(path: str) -> str:
    return f"Unexpected set-uid executable {path}"


def test_set_uid_executables_wherever_they_come_to_be(here: Site) -> None:
    """
    By events where the kernel lets a container have them, else by the scan; what is listed is none.
    """
    here.device.run("mender-monitorctl create setuid system SETUID_XDEV=no SETUID_INTERVAL=3s")
    here.device.run("mender-monitorctl baseline learn setuid system")
    assert "/usr/bin/su " in here.device.run("mender-monitorctl baseline show setuid system")
    here.watch("setuid", "system", "SETUID_XDEV=no", "SETUID_INTERVAL=3s")
    assert here.state("setuid", "system") == "OK"
    for path in ("/usr/local/bin/sh", "/root/sh", "/home/sh", "/dev/shm/sh"):
        here.device.run(f"install -m 4755 /bin/sh {path}")
        (alert,) = here.expect(set_uid(path), "CRITICAL")
        assert alert["subject"]["name"] == path
        # The unit's own mounts are all nosuid, the device's are not.
        assert alert["subject"]["status"] == ("nosuid" if path == "/dev/shm/sh" else "set-uid")
        here.device.run(f"rm {path}")
        here.expect(set_uid(path), "CRITICAL", "OK")
    here.device.run("mender-monitorctl disable setuid system")


def package(version: int) -> str:
    """Commands that build a package of 300 programs, as version *version*."""
    return (
        "rm -rf /tmp/p && mkdir -p /tmp/p/DEBIAN /tmp/p/opt/app && for n in $(seq 300); do "
        f'echo "#!/bin/sh\n# {version} $n" >/tmp/p/opt/app/tool$n; done && chmod 755 /tmp/p/opt/app/* && '
        f'printf "Package: app\\nVersion: {version}\\nArchitecture: all\\nMaintainer: x <x@x.invalid>\\n'
        'Description: x\\n" >/tmp/p/DEBIAN/control && '
        f"dpkg-deb --build /tmp/p /tmp/app_{version}_all.deb >/dev/null"
    )


def test_a_changed_executable_an_upgrade_of_many_and_a_new_list(here: Site) -> None:
    """
    One alert for one file; few for 300; a list that was learned again ends them all.
    """
    for version in (1, 2):
        here.device.run(package(version))
    here.device.run("apt-get --quiet --yes install /tmp/app_1_all.deb")
    words = "integrity core 'INTEGRITY_FILES=/opt/app/* /usr/bin/cat'"
    here.device.run(f"mender-monitorctl create {words} && mender-monitorctl baseline learn integrity core")
    here.watch("integrity", "core", "INTEGRITY_FILES=/opt/app/* /usr/bin/cat")
    here.device.run("cp /usr/bin/cat /root/cat && cp /root/cat /usr/bin/new && mv /usr/bin/new /usr/bin/cat")
    here.expect("Executable /usr/bin/cat moved", "CRITICAL")
    before = len(here.server.alerts())
    here.device.run("apt-get --quiet --yes install /tmp/app_2_all.deb")
    here.server.wait_for(
        lambda got: any(a["name"] == "Many executables are not as expected" for a in got), WAIT_SECONDS
    )
    here.device.run("mender-monitorctl baseline learn integrity core")
    here.expect("Executable /usr/bin/cat moved", "CRITICAL", "OK")
    here.device.wait_until(lambda: here.state("integrity", "core") == "OK")
    assert len(here.server.alerts()) - before < 60
    here.device.run("mender-monitorctl disable integrity core")


def test_a_signed_list(here: Site) -> None:
    """
    Without a signature a list does not count, as soon as there is a key; with one it does.
    """
    name = "Baseline of integrity signed is not trusted"
    here.device.run("mender-monitorctl create integrity signed INTEGRITY_FILES=/usr/bin/od")
    here.device.run("mender-monitorctl baseline learn integrity signed")
    here.watch("integrity", "signed", "INTEGRITY_FILES=/usr/bin/od")
    here.device.run("mkdir -p /etc/mender-monitor/trusted.d")
    here.device.run("mender-monitorctl baseline keygen /root/key.pem /etc/mender-monitor/trusted.d/key.pem")
    here.expect(name, "CRITICAL")
    file = "/etc/mender-monitor/baseline.d/integrity_signed.list"
    here.device.run(f"mender-monitorctl baseline sign --key /root/key.pem {file}")
    here.expect(name, "CRITICAL", "OK")
    here.device.run(f"sed -i 's/^[0-9a-f]\\{{64\\}}/*/' {file}")
    here.expect(name, "CRITICAL", "OK", "CRITICAL")
    here.device.run("chmod 700 /usr/bin/od")  # the list that was trusted last is in force
    here.expect("Executable /usr/bin/od moved", "CRITICAL")
    here.device.run("mender-monitorctl disable integrity signed && rm -r /etc/mender-monitor/trusted.d")


def test_one_among_two_hundred_thousand_files(tmp_path: Path) -> None:
    """
    The scan finds it; one that comes while the scan runs is found, too.
    """
    place = tmp_path / "place"
    place.mkdir()

    async def look() -> None:
        values = {"SETUID_PATHS": str(place), "SETUID_ALLOW": "/none"}
        check = SetuidCheck(Definition(CheckId("setuid", "many"), values), Settings())
        async with watched(Paths(tmp_path / "root"), check, knows=False) as report:
            (place / "0/late").write_text("x")
            (place / "0/late").chmod(0o4755)
            await report.until(lambda: len(report.open) == 2, 400)
            assert report.open == [set_uid(f"{place}/0/late"), set_uid(f"{place}/399/early")]

    def scenario() -> None:
        mount("tmpfs", place)
        for folder in range(FILES // 500):
            (place / str(folder)).mkdir()
            for number in range(500):
                (place / str(folder) / str(number)).touch()
        (place / "399/early").touch()
        (place / "399/early").chmod(0o2755)
        asyncio.run(look())

    in_own_mounts(scenario)


def test_two_gigabytes_at_the_rate_with_the_others_on_time(tmp_path: Path) -> None:
    """
    A big file takes its time, at idle priority and at INTEGRITY_RATE; a small one is told at once meanwhile.
    """
    big, small = tmp_path / "big", tmp_path / "small"
    with big.open("wb") as file:
        file.truncate(2 * 1024**3)  # sparse
    small.write_text("good")

    async def look() -> None:
        one = IntegrityCheck(
            Definition(CheckId("integrity", "core"), {"INTEGRITY_FILES": str(small)}), Settings()
        )
        paths = Paths(tmp_path / "root")
        (row,) = [found.row for found in await one.survey(Host(paths, Clock()))]
        rows = f"# mender-monitor baseline 1\n# serial: 1\n{row}\n{'0' * 64} * * * * {big}\n"
        paths.baseline_d.mkdir(parents=True)
        (paths.baseline_d / "integrity_core.list").write_text(rows)
        async with watched(paths, one, knows=False) as report:
            for number in range(5):
                small.write_text(f"evil {number}")
                await report.until(lambda: report.open == [f"Executable {small} changed"])
                small.write_text("good")
                await report.until(lambda: not report.open)

    asyncio.run(look())
