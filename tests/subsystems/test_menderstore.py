"""The store is read without the library that wrote it."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Mapping
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mender_monitor_py import lmdbpages
from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host import menderstore


def write(path: Path, *transactions: Mapping[bytes, bytes | None]) -> None:
    store = lmdb.open(str(path), subdir=False, map_size=1 << 26, sync=False)
    for values in transactions:
        with store.begin(write=True) as transaction:
            for key, value in values.items():
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
    store.close()


@settings(max_examples=60)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([b"state", b"standalone-state", b"artifact-name", b"artifact-provides", b"x"]),
            st.none() | st.integers(0, 20_000).map(lambda size: os.urandom(size)),
            max_size=4,
        ),
        max_size=8,
    )
)
def test_what_was_written_last_is_read(tmp_path_factory, transactions) -> None:
    path = tmp_path_factory.mktemp("store") / "mender-store"
    write(path, *transactions)
    wanted: dict[bytes, bytes] = {}
    for values in transactions:
        for key, value in values.items():
            wanted.pop(key, None)
            if value is not None and key in menderstore._KEYS:
                wanted[key] = value
    assert menderstore.read(path) == wanted


def test_many_keys_make_a_tree(tmp_path) -> None:
    path = tmp_path / "mender-store"
    write(path, {b"key-%d" % n: os.urandom(300) for n in range(3000)}, {b"state": b"{}"})
    assert menderstore.read(path) == {b"state": b"{}"}


def test_a_look_leaves_no_trace(tmp_path) -> None:
    """Neither a lock file nor a reader in the writer's table, and the writer goes on."""
    path = tmp_path / "mender-store"
    store = lmdb.open(str(path), subdir=False, map_size=1 << 24)
    with store.begin(write=True) as transaction:
        transaction.put(b"state", b"1")
        assert menderstore.read(path) == {}
    assert menderstore.read(path) == {b"state": b"1"}
    assert store.readers().strip() == "(no active readers)"
    store.close()
    (tmp_path / "mender-store-lock").unlink()
    menderstore.read(path)
    assert [path.name for path in tmp_path.iterdir()] == ["mender-store"]


def test_a_damaged_file_is_unknown_and_harms_nobody(tmp_path) -> None:
    """The library would end this process by SIGBUS or SIGSEGV for a good part of these."""
    path = tmp_path / "mender-store"
    write(path, *({b"state": os.urandom(size)} for size in (10, 6000, 900, 4500)))
    whole, chance = path.read_bytes(), random.Random(1)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        match chance.randrange(3):
            case 0:
                for _ in range(chance.randrange(1, 40)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:
                page = chance.randrange(len(data) // 4096) * 4096
                data[page + 16 : page + 4096] = chance.randbytes(4080)
        path.write_bytes(data)
        try:
            menderstore.read(path)
            outcomes.add("read")
        except UnknownError:
            outcomes.add("unknown")
    assert outcomes == {"read", "unknown"}


class Hostile:
    """A store that somebody made to harm who reads it: one page of 64 KiB, after the two that describe it."""

    SIZE = 65_536

    def __init__(self, flags: int, root: int = 2, last_page: int = 4) -> None:
        self.flags = flags
        head = struct.pack("=IIQQ", 0xBEEFC0DE, 1, 0, 0)
        free = struct.pack("=IHH5Q", self.SIZE, 0, 0, 0, 0, 0, 0, 0)
        main = struct.pack("=IHH5Q", 0, 0, 1, 0, 0, 0, 0, root)
        meta = head + free + main + struct.pack("=QQ", last_page, 1)
        self.pages = [(bytes(16) + meta).ljust(self.SIZE, b"\0")] * 2

    def page(self, nodes: int, node: bytes) -> bytes:
        """All of its *nodes* are at one place."""
        at = self.SIZE - len(node)
        head = struct.pack("=QHHHH", 2, 0, self.flags, 16 + 2 * nodes, at)
        body = head + struct.pack("=H", at) * nodes
        return body.ljust(at, b"\0") + node

    def write(self, path: Path, *pages: bytes) -> None:
        path.write_bytes(b"".join((*self.pages, *pages)))


def test_a_page_behind_the_end_of_the_world(tmp_path) -> None:
    """No number in it is too big for the system's own calls."""
    path = tmp_path / "mender-store"
    for root in (1 << 40, 1 << 47, 1 << 63, (1 << 64) - 2):
        Hostile(2, root=root, last_page=(1 << 64) - 2).write(path)
        with pytest.raises(UnknownError, match=r"not one of the file's|behind the end"):
            menderstore.read(path)


def test_a_small_file_that_says_it_is_huge(tmp_path, monkeypatch) -> None:
    """A value of megabytes thirty thousand times, and as many pages below one: neither is followed."""
    path, asked = tmp_path / "mender-store", 0
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        nonlocal asked
        asked += size
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    leaf = Hostile(2, last_page=100)
    size = 3 << 20
    value = struct.pack("=4H5sQ", size & 0xFFFF, size >> 16, 1, 5, b"state", 3)
    overflow = struct.pack("=QHHI", 3, 0, 4, 49).ljust(49 * Hostile.SIZE, b"\0")
    leaf.write(path, leaf.page(30_000, value), overflow)
    with pytest.raises(UnknownError, match="twice"):
        menderstore.read(path)
    branch = Hostile(1, last_page=100)
    branch.write(path, branch.page(30_000, struct.pack("=4H", 3, 0, 0, 0)))
    with pytest.raises(UnknownError, match="too many"):
        menderstore.read(path)
    assert asked < 8 << 20


def test_a_page_of_a_file_that_no_disk_holds(tmp_path) -> None:
    """A branch has 48 bits of a page's number: the upper ones count."""
    path = tmp_path / "mender-store"
    leaf = Hostile(2, last_page=100)
    value = struct.pack("=4H5s", 2, 0, 0, 5, b"state") + b"{}"
    whole = leaf.page(1, value)
    for high, wanted in ((0, {b"state": b"{}"}), (1, None)):
        branch = Hostile(1, last_page=100)
        branch.write(path, branch.page(1, struct.pack("=4H", 3, 0, high, 0)), whole)
        if wanted is not None:
            assert menderstore.read(path) == wanted
        else:
            with pytest.raises(UnknownError, match="not one of the file's"):
                menderstore.read(path)


def test_what_is_written_while_it_is_read(tmp_path, monkeypatch) -> None:
    """It is read anew, as what was read may be of two snapshots; not for ever."""
    path, writes = tmp_path / "mender-store", 1
    real = lmdbpages.values

    def values(*arguments):
        nonlocal writes
        if writes > 0:
            writes -= 1
            write(path, {b"state": b"%d" % writes})
        return real(*arguments)

    monkeypatch.setattr(lmdbpages, "values", values)
    write(path, {b"state": b"old"})
    assert menderstore.read(path) == {b"state": b"0"}
    writes = 1000
    with pytest.raises(UnknownError, match="written to all the time"):
        menderstore.read(path)


def test_what_is_no_store(tmp_path) -> None:
    path = tmp_path / "mender-store"
    with pytest.raises(UnknownError, match="no update client has run here"):
        menderstore.read(path)
    path.write_bytes(b"SQLite format 3\0" * 1000)
    with pytest.raises(UnknownError, match="no LMDB file"):
        menderstore.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnknownError, match="regular"):
        menderstore.read(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UnknownError, match="regular"):
        menderstore.read(path)
