"""What gives a hidden process away, as the kernel writes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.host.hidden import HiddenProcesses, cgroup_processes, covered, netlink_ports
from mender_monitor_py.host.mounts import parse_mounts
from mender_monitor_py.host.procfs import Procfs

MOUNTS = b"""\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:5 / /proc rw,nosuid - proc proc rw
24 23 0:40 / /proc/123 rw - tmpfs none rw
25 23 253:0 /x /proc/77/exe rw - ext4 /dev/vda1 rw
26 22 0:41 / /mnt/a\\040b rw - tmpfs none rw,size=1k
27 23 0:42 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
"""


def test_the_mounts_of_a_system():
    found = parse_mounts(MOUNTS)
    assert [mount.path for mount in found][-2:] == ["/mnt/a b", "/proc/sys/fs/binfmt_misc"]
    assert (found[0].device, found[0].kind, found[4].options) == ("253:0", "ext4", "rw,size=1k")
    assert list(covered(found)) == [(123, "/proc/123"), (77, "/proc/77/exe")]


@given(st.binary(max_size=200))
def test_any_bytes_are_mounts(data):
    list(covered(parse_mounts(data)))


def test_the_numbers_of_netlink_sockets():
    text = "sk Eth Pid Groups\n0 0 812 0\n0 0 0 0\n0 0 4294963199 0\n0 0 x 0\n"
    assert list(netlink_ports(text)) == [812]


def test_the_processes_of_the_control_groups(tmp_path):
    group = tmp_path / "cgroup/system.slice/x.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("12\n0\n34\n")
    line = f"30 22 0:50 / {tmp_path}/cgroup rw - cgroup2 cgroup rw\n".encode()
    assert list(cgroup_processes(parse_mounts(line))) == [
        (12, "/system.slice/x.service"),
        (34, "/system.slice/x.service"),
    ]


def test_all_numbers_have_their_turn(tmp_path):
    """The recent ones are asked for again and again, the others one after the other."""
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/pid_max").write_text("100000\n")
    (tmp_path / "proc/loadavg").write_text("0 0 0 1/1 20000\n")
    hidden = HiddenProcesses(Procfs(tmp_path))
    looks = [set(hidden._sweep()) for _ in range(6)]
    assert set(range(1, 100_000)) == set().union(*looks)
    assert looks[0] != looks[1]
    assert max(map(len, looks)) <= 32_768
