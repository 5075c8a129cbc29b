"""What is read of a process, from texts as the kernel writes them and from a folder like /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.host.procfs import Procfs, container_of, parse_cgroup, parse_stat, unit_of

FIELDS = "S 7 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 10 10"
CONTAINER = "4f" * 32


@given(st.binary(max_size=15).filter(lambda name: b"\0" not in name))
def test_a_name_with_brackets_and_spaces_does_not_shift_the_fields(name):
    """Any process can call itself ``x) S 1 (y``."""
    found = parse_stat(b"12 (" + name + b") " + FIELDS.encode())
    assert found is not None
    assert (found.pid, found.parent, found.start, found.state) == (12, 7, 4242, "S")
    assert os.fsencode(found.name) == name


@given(st.binary(max_size=60))
def test_what_is_no_stat_is_none(data):
    try:
        found = parse_stat(data)
    except ValueError:
        return
    assert found is None


@pytest.mark.parametrize(
    ("text", "path", "unit", "container"),
    [
        ("0::/system.slice/ssh.service\n", "/system.slice/ssh.service", "ssh.service", ""),
        (
            "4:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/\n",
            "/system.slice/a.service",
            "a.service",
            "",
        ),
        (
            f"0::/system.slice/docker-{CONTAINER}.scope\n",
            f"/system.slice/docker-{CONTAINER}.scope",
            f"docker-{CONTAINER}.scope",
            CONTAINER,
        ),
        (f"3:memory:/docker/{CONTAINER}\n", f"/docker/{CONTAINER}", "", CONTAINER),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER}.scope",
            f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER}.scope",
            f"cri-containerd-{CONTAINER}.scope",
            CONTAINER,
        ),
        ("0::/lxc.payload.web/init.scope", "/lxc.payload.web/init.scope", "init.scope", "web"),
        (
            "0::/user.slice/user-0.slice/user@0.service/app.slice/x.service",
            "/user.slice/user-0.slice/user@0.service/app.slice/x.service",
            "x.service",
            "",
        ),
        ("0::/\n", "", "", ""),
        ("", "", "", ""),
    ],
)
def test_the_unit_and_the_container_of_a_control_group(text, path, unit, container):
    assert parse_cgroup(text) == path
    assert (unit_of(path), container_of(path)) == (unit, container)


@pytest.fixture
def device(tmp_path):
    """A root with one process, 12, whose parent is 7."""
    for pid, exe in ((12, "/opt/evil\n"), (7, "/sbin/init")):
        folder = tmp_path / f"proc/{pid}"
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (x) {FIELDS}")
        (folder / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nUid:\t0\t33\t0\t0\n")
        (folder / "cmdline").write_bytes(b"/opt/evil\0--password=s3cret\0\x1b[2J\0")
        (folder / "cgroup").write_text("0::/system.slice/web.service\n")
        (folder / "exe").symlink_to(exe)
    (tmp_path / "proc/stat").write_text("cpu 1\nbtime 1700000000\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("www-data:x:33:33::/:/bin/sh\nnonsense\n")
    return tmp_path


def test_all_that_tells_who_did_it(device):
    found = Procfs(device).describe(12)
    assert found is not None
    assert found.lines() == [
        "pid: 12",
        r"executable: /opt/evil\n",
        r"command line: /opt/evil --password=*** \x1b[2J",
        "user: www-data",
        "parent: 7 /sbin/init",
        "systemd unit: web.service",
        "container: none",
        "started: 2023-11-14T22:14:02Z",
    ]


def test_users_are_those_with_a_number_and_of_several_names_the_first_counts(device):
    """As getpwuid(3) has it; a line may be none of a user, and a second name for root is an old trick."""
    with (device / "etc/passwd").open("a") as file:
        file.write("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n+::::::\nx:x:many:0::/:/bin/sh\n")
    procfs = Procfs(device)
    assert [procfs.user(uid) for uid in (0, 33, 7)] == ["root", "www-data", "7"]


def test_a_process_that_ended_is_none(device):
    procfs = Procfs(device)
    assert sorted(procfs.pids()) == [7, 12]
    assert (procfs.describe(13), procfs.executable(13), procfs.arguments(13)) == (None, None, None)
    assert list(procfs.descriptors(13)) == []


def test_a_process_that_ends_while_it_is_read_is_none(device, monkeypatch):
    """Its number is another's by the time its command line is read."""
    procfs = Procfs(device)
    read = procfs.arguments

    def arguments(pid):
        (device / "proc/12/stat").write_text(f"12 (x) {FIELDS.replace('4242', '4243')}")
        return read(pid)

    monkeypatch.setattr(procfs, "arguments", arguments)
    assert procfs.describe(12) is None


def test_this_very_process():
    found = Procfs().describe(os.getpid())
    assert found is not None
    assert found.identity == Procfs().identity(os.getpid())
    assert found.command_line == Path("/proc/self/cmdline").read_text().rstrip("\0").replace("\0", " ")
    assert found.parent.split()[0] == str(os.getppid())
