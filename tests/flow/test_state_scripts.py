"""The state scripts of the update client: what they leave in the spool, and where the package puts them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mender_monitor_py import deploymentevents
from mender_monitor_py.host.clock import Clock
from mender_monitor_py.paths import Paths

SOURCE = Path(__file__).resolve().parents[2]
SCRIPTS = SOURCE / "scripts/state-scripts"
ALL = sorted([*(SCRIPTS / "rootfs").iterdir(), *(SCRIPTS / "artifact").iterdir()])
# A busy machine may take its time; what hangs takes far longer. bench/deployments.py has the figures.
LONGEST_S, HANGS_S = 30.0, 120

# Stands in for the client: its command line is what a script sees of its parent.
CALLER = "import subprocess, sys; sys.exit(subprocess.call([sys.argv[1]]))"


def call(script: Path, root: Path, *arguments: str, **variables: str) -> tuple[int, str, float]:
    """Run *script* as a client that was called with *arguments* and *variables*; status, output, seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CALLER, str(script), *arguments],
        env={"PATH": os.environ["PATH"], "MENDER_MONITOR_ROOT": str(root), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - began


def word(spool: Path) -> tuple[Path, deploymentevents.Event]:
    """The only word there, once it is whole: on a busy machine a script goes on without its own writer."""
    end = time.monotonic() + LONGEST_S
    while True:
        for file in spool.iterdir():
            event = deploymentevents.parse(file.read_bytes())
            if event is not None:
                assert list(spool.iterdir()) == [file]
                return file, event
        assert time.monotonic() < end
        time.sleep(0.02)  # another process cannot be awaited


def written(file: Path) -> str:
    """What a tool that hangs, or one in the place of another, has written into *file*."""
    end = time.monotonic() + LONGEST_S
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.02)  # another process cannot be awaited
    return file.read_text()


@pytest.fixture
def device(paths: Paths) -> Paths:
    """A device in a deployment, with the folder that the daemon made."""
    (paths.deployment_spool).mkdir(parents=True)
    header = paths.mender / "modules/v3/payloads/0000/tree/header"
    header.mkdir(parents=True)
    (header / "artifact_name").write_text("release 2=x")
    (paths.mender / "deployments.0001.6f1c2c39-1d4a.log").touch()
    (paths.mender / "deployments.0002.older.log").touch()
    return paths


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_a_word_for_the_daemon(device, script) -> None:
    status, output, _ = call(script, device.root, "--no-syslog", "daemon")
    assert (status, output) == (0, "")
    file, event = word(device.deployment_spool)
    assert script.name == f"{event.state}_{event.action}_50_mender-monitor"
    assert (event.mode, event.deployment, event.artifact) == ("managed", "6f1c2c39-1d4a", "release 2=x")
    now = Clock().now()
    assert event.boot_id == now.boot_id
    assert abs(event.boottime - now.boottime) < 60
    assert abs(event.wall - now.wall) < 60
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (("daemon",), "managed"),
        (("-daemon",), "managed"),
        (("install", "/data/daemon x.mender"), "standalone"),
        (("-install", "x"), "standalone"),
        (("commit",), "standalone"),
        (("-rollback",), "standalone"),
        (("something", "else"), ""),
    ],
)
def test_how_the_client_was_called(device, arguments, mode) -> None:
    call(ALL[0], device.root, *arguments)
    _, event = word(device.deployment_spool)
    assert event.mode == mode
    assert bool(event.deployment) == (mode == "managed")


@pytest.mark.parametrize("where", ["etc/mender/mender.conf", "var/lib/mender/mender.conf"])
@pytest.mark.parametrize(
    "text", ['{"UpdateLogPath": "%s"}', '{\n "A": 1,\n "UpdateLogPath" : "%s",\n "B": ""}\n']
)
def test_the_logs_are_in_another_folder(device, where, text) -> None:
    """
    The newer client puts them where it is told to. The id tells the daemon which one it is.
    """
    (device.root / "data/logs").mkdir(parents=True)
    (device.root / "data/logs/deployments.0000.another-id.log").touch()
    (device.root / where).parent.mkdir(parents=True, exist_ok=True)
    (device.root / where).write_text(text % "/data/logs")
    call(ALL[0], device.root, "daemon")
    _, event = word(device.deployment_spool)
    assert event.deployment == "another-id"


def test_a_client_whose_folders_are_elsewhere(device, tmp_path) -> None:
    """Clients 4 and 5 are moved by variables, which their scripts inherit."""
    conf, store = tmp_path / "conf", device.mender.rename(tmp_path / "store")
    (device.root / "data/logs").mkdir(parents=True)
    (device.root / "data/logs/deployments.0000.another-id.log").touch()
    conf.mkdir()
    (conf / "mender.conf").write_text('{"UpdateLogPath": "/data/logs"}')
    call(ALL[0], device.root, "daemon", MENDER_CONF_DIR=str(conf), MENDER_DATASTORE_DIR=str(store))
    _, event = word(device.deployment_spool)
    assert (event.deployment, event.artifact) == ("another-id", "release 2=x")


def test_the_other_slot_has_no_monitor(device) -> None:
    """There only the data partition is the same."""
    shutil.move(device.state, device.root / "data/mender-monitor")
    shutil.move(device.mender, device.root / "data/mender")
    call(ALL[0], device.root, "daemon")
    _, event = word(device.root / "data/mender-monitor/deployment.d")
    assert event.artifact == "release 2=x"


def no_folder(device: Paths) -> None:
    shutil.rmtree(device.state)


def no_client_files(device: Paths) -> None:
    shutil.rmtree(device.mender)


def a_file_in_its_place(device: Paths) -> None:
    shutil.rmtree(device.deployment_spool)
    device.deployment_spool.write_text("")


def full_of_words(device: Paths) -> None:
    for number in range(64):
        (device.deployment_spool / f"{number}").touch()


def a_hostile_name(device: Paths) -> None:
    name = device.mender / "modules/v3/payloads/0000/tree/header/artifact_name"
    name.write_bytes(b"$(reboot)`id`%s%n\\n\xff\0" + b"x" * 100_000)


@pytest.mark.parametrize(
    "trouble", [no_folder, no_client_files, a_file_in_its_place, full_of_words, a_hostile_name]
)
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_it_exits_with_0_whatever_happens(device, trouble, shell, tmp_path) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed here")
    trouble(device)
    before = len(list(device.deployment_spool.iterdir())) if device.deployment_spool.is_dir() else 0
    script = tmp_path / "ArtifactFailure_Enter_50_mender-monitor"
    text = (SCRIPTS / "event").read_text().replace("#!/bin/sh", f"#!/usr/bin/env -S {shell}", 1)
    script.write_text(text)
    script.chmod(0o755)
    status, output, seconds = call(script, device.root, "daemon")
    assert (status, output) == (0, "")
    assert seconds < LONGEST_S
    if trouble is full_of_words:
        assert len(list(device.deployment_spool.iterdir())) == before
    if trouble is a_hostile_name:
        _, event = word(device.deployment_spool)
        assert event.artifact.startswith("$(reboot)`id`%s%n")


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("path", [None, "/nonexistent", "/usr/bin:/bin"])
def test_no_environment_and_nothing_is_open(device, shell, path) -> None:
    """
    No PATH or one of nothing, no locale, no stdin, stdout and stderr: what it has to say it says.
    """
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed here")
    program, *applet = shell.split()
    variables = [f"MENDER_MONITOR_ROOT={device.root}", *([f"PATH={path}"] if path else [])]
    words = ["env", "-i", *variables, shutil.which(program), *applet, str(ALL[0])]
    began = time.monotonic()
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], timeout=HANGS_S, check=False)
    assert done.returncode == 0
    assert time.monotonic() - began < LONGEST_S
    # Without "sleep" it does not wait for its own writer.
    _, event = word(device.deployment_spool)
    assert event.artifact == "release 2=x"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("options", ["size=16k", "ro"])
def test_a_disk_that_is_full_or_read_only(device, options) -> None:
    spool = device.deployment_spool
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", spool], check=True)
    try:
        if options != "ro":
            with (spool / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(b"x" * 4096)
        status, output, seconds = call(ALL[0], device.root, "daemon")
        assert (status, output) == (0, "")
        assert seconds < LONGEST_S
    finally:
        subprocess.run(["umount", "--lazy", spool], check=True)


def call_with(tools: Path, root: Path, **texts: str) -> float:
    """Run a script where the programs *texts* take the place of the device's; the seconds that it took."""
    tools.mkdir()
    for name, text in texts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    began = time.monotonic()
    done = subprocess.run(
        [ALL[0]],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "MENDER_MONITOR_ROOT": str(root)},
        stdout=subprocess.PIPE,
        timeout=HANGS_S,
        check=False,
    )
    assert done.returncode == 0
    return time.monotonic() - began


def test_what_it_says_is_on_the_disk_before_the_client_goes_on(device, tmp_path) -> None:
    """The next state may be the reboot."""
    call_with(tmp_path / "tools", device.root, dd=f'printf "%s\\n" "$@" >{tmp_path}/words; cat >/dev/null')
    assert "conv=fsync" in written(tmp_path / "words").split()


def test_a_disk_that_hangs(device, tmp_path) -> None:
    """The client goes on."""
    hanging = f"echo $$ >{tmp_path}/pid\nexec sleep {HANGS_S}"
    assert call_with(tmp_path / "tools", device.root, dd=hanging) < LONGEST_S
    os.kill(int(written(tmp_path / "pid")), signal.SIGKILL)


def test_a_device_on_which_all_takes_long(device, tmp_path) -> None:
    """The second is one of the clock, however long the script's own sleep takes."""
    hanging = f"echo $$ >{tmp_path}/pid\nexec {shutil.which('sleep')} {HANGS_S}"
    slow = f"echo x >>{tmp_path}/sleeps\nexec {shutil.which('sleep')} 0.5"
    call_with(tmp_path / "tools", device.root, dd=hanging, sleep=slow)
    sleeps = tmp_path / "sleeps"  # none where the machine stood still before the first
    assert not sleeps.exists() or len(sleeps.read_text().split()) <= 2
    os.kill(int(written(tmp_path / "pid")), signal.SIGKILL)


@pytest.mark.parametrize(("text", "wall"), [("echo 12", 12.0), ("echo -5", 0.0), ("exit 1", 0.0)])
def test_another_clock(device, tmp_path, text, wall) -> None:
    """One of 1970, one before it, and none: the time since the boot is what counts."""
    call_with(tmp_path / "tools", device.root, date=text)
    _, event = word(device.deployment_spool)
    assert event.wall == wall
    assert abs(event.boottime - Clock().now().boottime) < 60


# Where the package puts them


def manage(root: Path, what: str, umask: int = 0o022) -> str:
    done = subprocess.run(
        [SCRIPTS / "manage", what, root], capture_output=True, text=True, timeout=30, check=False, umask=umask
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A root file system with the older client and our package."""
    root = tmp_path / "system"
    installed = root / "usr/share/mender-monitor/state-scripts/rootfs"
    installed.mkdir(parents=True)
    for script in (SCRIPTS / "rootfs").iterdir():
        shutil.copy(script, installed)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/mender").touch(mode=0o755)
    return root


def listed(root: Path) -> list[str]:
    folder = root / "etc/mender/scripts"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


OURS = sorted(path.name for path in (SCRIPTS / "rootfs").iterdir())


def test_installed_and_removed(system) -> None:
    """With the version file that the older client needs, which goes with them; twice is the same."""
    for _ in range(2):
        assert not manage(system, "install")
        assert listed(system) == [*OURS, "version"]
    assert (system / "etc/mender/scripts/version").read_bytes() == b"3"
    for name in OURS:
        assert os.access(system / "etc/mender/scripts" / name, os.X_OK)
    assert [path.name for path in (system / "etc/mender").iterdir()] == ["scripts"]
    manage(system, "remove")
    assert listed(system) == []
    manage(system, "remove")


def test_everybody_can_read_them_whatever_the_umask(system) -> None:
    manage(system, "install", 0o077)
    folder = system / "etc/mender/scripts"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"version": 0o644, **dict.fromkeys(OURS, 0o755)}


@pytest.fixture
def linked(system: Path) -> Path:
    """The folder is elsewhere, and has a script of somebody else's."""
    folder = system / "data/scripts"
    folder.mkdir(parents=True)
    (folder / "Idle_Enter_00_theirs").touch()
    (system / "etc/mender").mkdir(parents=True)
    (system / "etc/mender/scripts").symlink_to("../../data/scripts")
    return folder


def test_a_folder_that_is_a_link_is_looked_into(system, linked) -> None:
    """With a version file that others did not want, or without one that they need, nothing is updated."""
    assert "no version file" in manage(system, "install")
    assert listed(system) == ["Idle_Enter_00_theirs"]
    (linked / "Idle_Enter_00_theirs").unlink()
    manage(system, "install")
    (linked / "Idle_Enter_00_theirs").touch()
    manage(system, "remove")
    assert listed(system) == ["Idle_Enter_00_theirs", "version"]
    assert [path.name for path in linked.parent.iterdir()] == ["scripts"]


def test_the_version_file_of_others_stays(system) -> None:
    folder = system / "etc/mender/scripts"
    folder.mkdir(parents=True)
    (folder / "version").write_text("2\n")
    (folder / "Idle_Enter_00_theirs").touch()
    manage(system, "install")
    assert (folder / "version").read_text() == "2\n"
    manage(system, "remove")
    assert listed(system) == ["Idle_Enter_00_theirs", "version"]


def test_our_version_file_stays_while_others_need_it(system) -> None:
    manage(system, "install")
    (system / "etc/mender/scripts/Idle_Enter_00_theirs").touch()
    manage(system, "remove")
    assert listed(system) == ["Idle_Enter_00_theirs", "version"]


def test_nothing_where_it_is_not_safe(system) -> None:
    folder = system / "etc/mender/scripts"
    folder.mkdir(parents=True)
    (folder / "Idle_Enter_00_theirs").touch()
    assert "no version file" in manage(system, "install")
    (folder / "version").write_text("4")
    assert "a version that is not known" in manage(system, "install")
    assert listed(system) == ["Idle_Enter_00_theirs", "version"]


def test_a_version_file_that_a_package_has_by_now_stays(system) -> None:
    """The newer client's package brings the same file, and may come after us."""
    manage(system, "install")
    lists = system / "var/lib/dpkg/info"
    lists.mkdir(parents=True)
    (lists / "mender-update.list").write_text("/etc/mender/scripts\n/etc/mender/scripts/version\n")
    (lists.parent / "status").write_text(
        "Package: mender-update\nStatus: install ok installed\nArchitecture: all\nVersion: 5.1.0\n"
        "Maintainer: nobody <nobody@invalid>\nDescription: updates\n"
    )
    manage(system, "remove")
    assert listed(system) == ["version"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_gets_nothing(system) -> None:
    """No half of a script, and no empty version file: either stops all updates."""
    mender = system / "etc/mender"
    mender.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", mender], check=True)
    try:
        (mender / "scripts").mkdir()
        with (mender / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        assert "cannot be written" in manage(system, "install")
        assert listed(system) == []
        assert sorted(path.name for path in mender.iterdir()) == ["filler", "scripts"]
    finally:
        subprocess.run(["umount", "--lazy", mender], check=True)


def test_nothing_without_the_client(system) -> None:
    (system / "usr/bin/mender").unlink()
    manage(system, "install")
    assert listed(system) == []
