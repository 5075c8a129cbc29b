"""What a process counts as, and whether the list expects it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.baseline import inline
from mender_monitor_py.proclist import (
    Entry,
    Facts,
    Image,
    Opened,
    Opening,
    Programs,
    begins_entry,
    kernel_thread,
    listed,
)

HASH = "ab" * 32
PYTHON = "/usr/bin/python3.11"


def entry(text):
    return Entry.parse(text.split())


@pytest.mark.parametrize(
    ("text", "image", "named"),
    [
        ("/usr/bin/ls", Image("/usr/bin/ls"), True),
        ("/usr/bin/ls", Image("elsewhere:/usr/bin/ls"), False),
        ("elsewhere:/usr/bin/*", Image("elsewhere:/usr/bin/ls"), True),
        ("/usr/bin/*", Image("/usr/bin/ls"), True),
        ("/usr/bin/*", Image("/usr/bin/x/ls"), False),
        (PYTHON, Image(PYTHON), True),
        (PYTHON, Image(PYTHON, "/opt/x.py"), False),
        (PYTHON, Image(PYTHON, "-c"), False),
        (PYTHON, Image(PYTHON, None), True),
        (f"{PYTHON} /opt/x.py", Image(PYTHON, "/opt/x.py"), True),
        (f"{PYTHON} /opt/x.py", Image(PYTHON, "/opt/y.py"), False),
        (f"{PYTHON} /opt/x.py", Image(PYTHON), False),
        (f"{PYTHON} /opt/x.py", Image(PYTHON, None), True),
        (f"{PYTHON} *", Image(PYTHON, "/opt/x.py"), True),
        (f"{PYTHON} *", Image(PYTHON), True),
        (f"{PYTHON} -m http.server", Image(PYTHON, "-m http.server"), True),
        (f"{PYTHON} /opt/x.py", Image("/usr/bin/env", "/opt/x.py"), True),
        ("/opt/x.py", Image(PYTHON, "/opt/x.py"), True),
        ("/bin/busybox sh /x", Image("/bin/busybox", "sh /x"), True),
        ("kernel:kworker", kernel_thread("kworker/u8:1-flush"), True),
    ],
)
def test_what_an_entry_names(text, image, named):
    assert entry(text).names(image) == named
    assert bool(Programs([entry(text)]).about(image)) == named


@pytest.mark.parametrize(
    ("text", "facts", "holds"),
    [
        ("/x user:root", Facts(user="root"), True),
        ("/x user:root", Facts(user="www"), False),
        ("/x user:root", Facts(), False),
        ("/x user:*", Facts(), False),
        ("/x parent:/usr/**", Facts(parent="/usr/lib/systemd/systemd"), True),
        ("/x parent:/usr/**", Facts(parent="/tmp/x"), False),
        (f"/x sha256:{HASH}", Facts(sha256=HASH), True),
        (f"/x sha256:{HASH}", Facts(), False),
        (f"/x sha256:{HASH} user:a parent:b", Facts("a", "b", HASH), True),
        (f"/x sha256:{HASH} user:a parent:b", Facts("a", "c", HASH), False),
    ],
)
def test_conditions(text, facts, holds):
    one = entry(text)
    assert one.holds(facts) == holds
    assert listed(Programs([one]).about(Image("/x"))) is None
    assert listed(Programs([one, entry("/*")]).about(Image("/x"))) is True
    assert listed(Programs([one]).about(Image("/y"))) is False


@pytest.mark.parametrize("text", ["ls", "user:root", "/x sha256:abc", "-c"])
def test_a_bad_entry_is_refused(text):
    with pytest.raises(ValueError, match="is not"):
        entry(text)


@pytest.mark.parametrize(
    ("image", "odd"),
    [
        (Image("/memfd:x (deleted)"), "memory"),
        (Image("elsewhere:/memfd:x (deleted)"), "memory"),
        (Image("/usr/bin/ls (deleted)"), "deleted"),
        (Image("/bin/sh", "/dev/fd/63"), "descriptor"),
        (Image("/bin/sh", "/proc/self/fd/3"), "descriptor"),
        (Image("/bin/sh", "/dev/fd/x"), ""),
        (Image("/bin/sh", None), ""),
        (Image("/bin/ls"), ""),
    ],
)
def test_what_is_a_finding_whatever_the_list_says(image, odd):
    assert odd in image.odd
    assert bool(odd) == bool(image.odd)


texts = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(texts, texts.map(lambda text: f"/{text}") | st.sampled_from(["", "-c", "-m json.tool", "sh /x"]))
def test_the_row_of_a_program_expects_that_program_alone(path, script):
    image = Image(f"/{path}", script)
    one = Entry.parse(image.row.split())
    assert one.names(image)
    assert not one.names(Image(f"/{path}x", script))
    assert not one.names(Image(f"/{path}", f"{script}x"))


def test_inline_entries():
    found = inline("/bin/a user:x /bin/b -c\n/bin/c sha256:" + HASH, Entry.parse, begins_entry)
    assert [one.executable.text for one in found] == ["/bin/a", "/bin/b", "/bin/c"]
    assert found[1].script is not None
    assert found[2].sha256 == HASH


LOADER = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


@pytest.mark.parametrize(
    ("opened", "groups"),
    [
        ("", ""),
        ("ls LD", "ls"),
        ("ls", "ls"),
        ("ls LD cat LD", "ls cat"),
        ("ls ls LD", "ls ls"),
        ("#x sh LD", "#x+sh"),
        ("#x #y sh LD ls", "#x+#y+sh ls"),
        ("LD", "LD"),  # executed itself, or for a program that has no file
        ("ls LD LD", "ls LD"),
        ("#x", ""),
        ("static static", "static static"),
        ("#x LD", "#x+LD"),
        ("#x #x' sh sh' LD LD' ls ls' LD LD'", "#x+sh ls"),  # an overlay, and the layer below it
    ],
)
def test_what_was_opened_is_told_apart_by_programs(opened, groups):
    def one(word):
        word, below = word.rstrip("'"), word.endswith("'")
        path = LOADER if word == "LD" else f"/bin/{word}"
        return Opened(1, path, b"#!/b" if word.startswith("#") else b"\x7fELF", int(below), 0)

    def name(found):
        return "LD" if found.path == LOADER else found.path.removeprefix("/bin/")

    files = [one(word) for word in opened.split()]
    shown = " ".join("+".join(map(name, group)) for group in Opening().add(files))
    assert shown == groups
    # However the events come in parts.
    in_parts = Opening()
    parts = [group for file in files for group in in_parts.add([file])]
    assert parts == Opening().add(files)


def test_a_program_with_the_name_of_a_loader_is_no_loader():
    def count(path):
        return len(Opening().add([Opened(1, "/bin/ls", b"\x7fELF", 0, 0), Opened(1, path, b"\x7fELF", 0, 0)]))

    assert {count("/tmp/ld-linux.so.2"), count("/tmp/lib/ld.so"), count("/usr/lib/a/b/ld.so.1")} == {2}
    assert {count("/lib64/ld-linux-x86-64.so.2"), count("/lib/ld-musl-armhf.so.1"), count(LOADER)} == {1}
