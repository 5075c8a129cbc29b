"""Which executables are as they should be."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mender_monitor_py.baseline import inline
from mender_monitor_py.integritylist import CHANGED, MISSING, MOVED, Entry, Executable, begins_entry, judge

SHA, OTHER = "a" * 64, "b" * 64
CAT = Executable("/usr/bin/cat", SHA, "7", "8:1", "0755", "0:0")
texts = st.binary(min_size=1, max_size=20).map(
    lambda data: data.replace(b"\0", b"x").decode("utf-8", "surrogateescape")
)
executables = st.builds(
    Executable,
    texts.map("/".__add__),
    st.sampled_from([SHA, OTHER]),
    st.integers(0, 2**63).map(str),
    st.sampled_from(["8:1", "259:12"]),
    st.integers(0, 0o7777).map("{:04o}".format),
    st.sampled_from(["0:0", "1000:100"]),
    st.just("") | texts,
)


def entry(text: str) -> Entry:
    return Entry.parse(text.split())


@given(executables)
def test_the_row_of_a_file_expects_that_file(found):
    parsed = entry(found.row)
    assert parsed.allows(found)
    assert parsed.subject == found.path
    assert judge([parsed], found, covered=True) == ("", ())
    assert found.row.isprintable()


@given(executables, executables, st.booleans())
@example(CAT._replace(target="*"), CAT._replace(target="dog"), True)
@example(CAT._replace(target="[a-z]og"), CAT._replace(target="dog"), True)
def test_the_kind_of_a_finding_is_that_of_what_differs(listed, found, inode):
    found = found._replace(path=listed.path)
    kind = judge([entry(listed.row)], found, inode=inode).kind
    if found.sha256 != listed.sha256:
        assert kind == CHANGED
    elif (found.mode, found.owner, found.target) != (listed.mode, listed.owner, listed.target) or (
        inode and found.inode != listed.inode
    ):
        assert kind == MOVED
    else:
        assert kind == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{SHA} 7 8:1 0755 0:0 /usr/bin/cat", ""),
        (f"{SHA} 7 8:1 755 0:0 /usr/bin/cat", ""),
        (f"{SHA} * * * * /usr/bin/*", ""),
        ("* * * * * /usr/bin/cat", ""),
        (f"{SHA} 7 9:9 0755 0:0 /usr/bin/cat", ""),  # another number after a boot
        (f"{SHA} 8 8:1 0755 0:0 /usr/bin/cat", MOVED),
        (f"{SHA} 7 8:1 0700 0:0 /usr/bin/cat", MOVED),
        (f"{SHA} 7 8:1 0755 0:0 /usr/bin/cat -> dog", MOVED),
        (f"{SHA} 7 8:1 0755 0:0 /usr/bin/cat -> *", ""),
        (f"{SHA} 7 8:1 0755 0:0 /usr/bin/cat -> /opt/*", MOVED),
        (f"{OTHER} * * * * /usr/bin/cat", CHANGED),
    ],
)
def test_what_an_entry_expects(text, kind):
    assert judge([entry(text)], CAT).kind == kind


def test_a_device_counts_for_a_file_that_is_covered_by_a_mount():
    listed = [entry(f"{SHA} 7 9:9 0755 0:0 /usr/bin/cat")]
    assert judge(listed, CAT, covered=True).kind == MOVED
    assert judge(listed, CAT, covered=True, inode=False).kind == ""


def test_one_of_several_entries_is_enough_and_the_nearest_explains():
    listed = [entry(f"{OTHER} 7 8:1 0755 0:0 /usr/bin/cat"), entry(f"{SHA} 9 8:1 0755 0:0 /usr/bin/cat")]
    assert judge(listed, CAT) == (MOVED, ("inode: 7, expected 9",))
    assert judge([*listed, entry(CAT.row)], CAT).kind == ""
    assert judge(listed, None).kind == MISSING


@pytest.mark.parametrize(
    "text",
    [
        "x",
        f"{SHA[1:]} 7 8:1 0755 0:0 /x",
        f"{SHA} x 8:1 0755 0:0 /x",
        f"{SHA} 7 8 0755 0:0 /x",
        f"{SHA} 7 8:1 0999 0:0 /x",
        f"{SHA} 7 8:1 0755 root /x",
        f"{SHA} 7 8:1 0755 0:0 x",
        f"{SHA} 7 8:1 0755 0:0 /x ->",
        f"{SHA} 7 8:1 0755 0:0 /x to y",
    ],
)
def test_what_is_no_entry(text):
    with pytest.raises(ValueError, match=r"\w"):
        entry(text)


def test_entries_in_a_check_file():
    text = f"{CAT.row} {CAT.row.replace(SHA, OTHER)}, * * * * * /opt/x"
    assert [one.sha256 for one in inline(text, Entry.parse, begins_entry)] == [SHA, OTHER, "*"]
