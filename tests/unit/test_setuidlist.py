"""Which set-uid executables are expected, and where they are looked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.baseline import Glob, inline
from mender_monitor_py.setuidlist import (
    Allowed,
    Entry,
    Found,
    Mounted,
    barriers,
    begins_entry,
    excluded,
    exclusion,
    is_below,
    is_nosuid,
    walks,
)

SHA = "a" * 64
SUDO = Found("/usr/bin/sudo", 0o4755, 0, 0, "", SHA, 100, 1, False)

paths = st.binary(min_size=1, max_size=20).map(
    lambda data: "/" + data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
found_files = st.builds(
    Found,
    paths,
    st.integers(0, 0o7777),
    st.integers(0, 2**32),
    st.integers(0, 2**32),
    st.sampled_from(["", "cap_setuid=ep", "cap_net_admin+cap_net_raw=ep"]),
    st.sampled_from(["", SHA, "b" * 64]),
    st.integers(0, 2**40),
    st.integers(1, 9),
    st.booleans(),
)


def entry(text: str) -> Entry:
    return Entry.parse(text.split())


@given(found_files)
def test_the_row_of_a_file_expects_that_file_and_is_one_line_of_words(found):
    parsed = entry(found.row)
    assert parsed.allows(found)
    assert parsed.subject == found.path
    assert found.row.isprintable()


@given(found_files, found_files)
def test_the_row_of_a_file_expects_no_other(one, other):
    facts = ("path", "mode", "uid", "gid", "capabilities")
    if any(getattr(one, fact) != getattr(other, fact) for fact in facts) or (
        one.sha256 and one.sha256 != other.sha256
    ):
        assert not entry(one.row).allows(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/usr/bin/sudo", True),
        ("/usr/bin/*", True),
        ("/usr/bin/sudo mode:4755 owner:0:0", True),
        (f"/usr/bin/sudo sha256:{SHA}", True),
        ("/usr/bin/sudo mode:4711", False),
        ("/usr/bin/sudo owner:1:0", False),
        (f"/usr/bin/sudo sha256:{'b' * 64}", False),
        ("/usr/bin/sudo caps:cap_setuid=ep", False),
        ("/usr/*", False),
        ("/usr/**", True),
    ],
)
def test_what_an_entry_expects(text, expected):
    assert expected is entry(text).allows(SUDO)


@pytest.mark.parametrize(
    "text",
    [
        "usr/bin/sudo",
        "/x mode:0999",
        "/x mode:",
        "/x sha256:zz",
        "/x owner:root",
        "/x what",
        "/x mode:1 mode:2",
    ],
)
def test_what_is_no_entry(text):
    with pytest.raises(ValueError, match=r"\w"):
        entry(text)


def test_capabilities_of_a_file_that_was_learned_without_are_a_difference():
    assert entry("/usr/bin/sudo mode:4755").differences(SUDO._replace(capabilities="cap_setuid=ep")) == [
        "caps: cap_setuid=ep, expected none"
    ]


def test_the_verdict_is_that_of_the_entry_that_fits_best():
    listed = Allowed([entry("/usr/bin/sudo mode:4711 owner:1:1"), entry("/usr/bin/su* mode:4711")])
    assert listed.judge(SUDO) == ["mode: 4755, expected 4711"]
    assert listed.judge(SUDO._replace(mode=0o4711)) is None
    assert listed.judge(SUDO._replace(path="/tmp/sh")) == []


def test_entries_in_a_check_file():
    assert len(inline("/usr/bin/su mode:4755 /opt/*, /bin/x", Entry.parse, begins_entry)) == 3


ROOT = Mounted("/", "8:1", "/", "ext4", False)
PROC = Mounted("/proc", "0:4", "/", "proc", False)
TMP = Mounted("/tmp", "0:30", "/", "tmpfs", True)
NFS = Mounted("/mnt/nfs", "0:50", "/", "nfs4", False)
BIND = Mounted("/srv/bind", "8:1", "/var", "ext4", False)
LOOSE = Mounted("/srv/loose", "0:30", "/", "tmpfs", False)


def test_one_file_system_as_find_has_it():
    assert walks(["/"], [ROOT, PROC, TMP], other_file_systems=False) == ["/"]
    assert walks(["/tmp/x"], [ROOT, TMP], other_file_systems=False) == ["/tmp/x"]


def test_all_file_systems_each_once_but_with_all_the_rights_that_they_are_mounted_with():
    mounts = [ROOT, PROC, TMP, NFS, BIND, LOOSE]
    found = walks(["/"], mounts, other_file_systems=True)
    assert found == ["/", "/tmp", "/srv/loose"]


def test_a_folder_below_another_is_not_walked_twice():
    assert walks(["/usr", "/", "/usr/bin"], [ROOT], other_file_systems=False) == ["/"]
    found = walks(["/", "/tmp/a", "/tmp"], [ROOT, TMP], other_file_systems=False)
    assert found == ["/", "/tmp"]


def test_what_is_mounted_over_itself_is_no_barrier():
    """As ProtectHome=read-only of systemd.exec(5) does it for /home."""
    home = Mounted("/home", "8:1", "/home", "ext4", False)
    inner = Mounted("/tmp/a/b", "0:30", "/a/b", "tmpfs", True)
    mounts = [ROOT, PROC, TMP, BIND, home, inner]
    assert barriers(mounts) == {"/", "/proc", "/tmp", "/srv/bind"}
    assert walks(["/"], mounts, other_file_systems=False) == ["/"]
    assert walks(["/"], mounts, other_file_systems=True) == ["/", "/tmp"]
    assert walks(["/home/me", "/home"], mounts, other_file_systems=False) == ["/home"]


@pytest.mark.parametrize(
    ("path", "nosuid"), [("/bin/su", False), ("/tmp/su", True), ("/srv/loose/x", False), ("/home/x", False)]
)
def test_the_flags_of_a_mount_over_itself_do_not_count(path, nosuid):
    home = Mounted("/home", "8:1", "/home", "ext4", True)
    assert nosuid is is_nosuid(path, [ROOT, TMP, LOOSE, home])


names = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
mounts = st.lists(
    st.builds(Mounted, names, st.sampled_from(["1:1", "2:2"]), names, st.just("ext4"), st.booleans()),
    max_size=5,
)


@given(st.lists(names, min_size=1, max_size=3), mounts, st.booleans())
def test_every_wanted_path_is_walked_or_below_a_walk(wanted, others, other_file_systems):
    found = walks(wanted, [ROOT, *others], other_file_systems=other_file_systems)
    assert len(set(found)) == len(found)
    assert all(any(is_below(path, top) for top in found) for path in wanted)


def test_what_is_excluded_is_so_with_all_that_is_in_it():
    pattern = re.compile(exclusion([Glob("/var/lib/docker"), Glob("/home/*/cache")]), re.DOTALL)
    assert excluded("/var/lib/docker/x/y", pattern)
    assert excluded("/home/me/cache/sh", pattern)
    assert not excluded("/var/lib/dockers", pattern)
    assert not excluded("/home/cache", pattern)
    assert not excluded("/x", None)
