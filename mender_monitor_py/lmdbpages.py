"""
The pages of an LMDB file, as lmdb.h and mdb.c of LMDB 0.9 lay them out, read without the library.

The library maps the file and believes what is in it: a damaged one ends the process that reads it. Here
every number is checked before it is followed. The file is one main database without duplicates.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

MAGIC = 0xBEEFC0DE
VERSION = 1

_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04  # mp_flags
_BIG, _SUB, _DUPLICATES = 0x01, 0x02, 0x04  # mn_flags
_NODE = struct.Struct("=4H")  # mn_lo and mn_hi in the machine's order, mn_flags, mn_ksize; then the key
_MOST_PAGES = 4096
_MOST_BYTES = 1 << 40  # of a file: what lies behind is no place that a real one has
_MOST_VALUE = 4 * 1024 * 1024
_PAGE_SIZES = (512, 65_536)


@dataclass(frozen=True, slots=True)
class Meta:
    """
    A snapshot: its number, the root of the main database (None: it is empty), and the file's last page.

    *word* is the size of a pointer of the machine that wrote it: 8 or 4.
    """

    txnid: int
    root: int | None
    last_page: int
    page_size: int
    word: int

    @property
    def header(self) -> int:
        """The size of a page's header: its number, padding, flags, and two bounds."""
        return self.word + 8


def newest(head: bytes) -> Meta:
    """
    The newest snapshot; *head* is the begin of the file, with its first two pages.

    Raises ValueError when it is no LMDB file, or a damaged one.
    """
    first = _meta(head, 0)
    if first is None:
        raise ValueError("it is no LMDB file of a known version")
    second = _meta(head, first.page_size)
    return max((meta for meta in (first, second) if meta is not None), key=lambda meta: meta.txnid)


def values(meta: Meta, page: Callable[[int, int], bytes], wanted: Collection[bytes]) -> dict[bytes, bytes]:
    """
    The values of those keys of *wanted* that are there.

    *page* gives the bytes of a number of pages, from a page on. Raises ValueError when the file is damaged.
    """
    found: dict[bytes, bytes] = {}
    waiting = [] if meta.root is None else [meta.root]
    seen: set[int] = set()
    while waiting:
        number = waiting.pop()
        if number in seen or len(seen) >= _MOST_PAGES:
            raise ValueError("its pages lead in a circle, or are too many")
        seen.add(number)
        data = _page(meta, page, number)
        flags = _flags(meta, data)
        if flags & _BRANCH:
            waiting += [pointer for pointer, _, _ in _nodes(meta, data, leaf=False)]
            if len(waiting) > _MOST_PAGES:
                raise ValueError("its pages are too many")
        elif flags & _LEAF:
            for size, node_flags, at in _nodes(meta, data, leaf=True):
                _leaf(meta, page, data, (size, node_flags, at), wanted, found)
        else:
            raise ValueError(f"page {number} is of no known kind")
    return found


def _leaf(
    meta: Meta,
    page: Callable[[int, int], bytes],
    data: bytes,
    node: tuple[int, int, int],
    wanted: Collection[bytes],
    found: dict[bytes, bytes],
) -> None:
    size, flags, at = node
    begin = at + _NODE.size
    key_size = _NODE.unpack_from(data, at)[3]
    key = data[begin : begin + key_size]
    if key not in wanted or flags & (_SUB | _DUPLICATES):
        return
    if key in found:
        raise ValueError("a key is there twice")
    begin += key_size
    if not flags & _BIG:
        value = data[begin : begin + size]
    else:
        if size > _MOST_VALUE or begin + meta.word > len(data):
            raise ValueError("a value is too big")
        number = int.from_bytes(data[begin : begin + meta.word], sys.byteorder)
        count = -(-(size + meta.header) // meta.page_size)
        pages = _page(meta, page, number, count)
        if not _flags(meta, pages) & _OVERFLOW:
            raise ValueError(f"page {number} holds no value")
        value = pages[meta.header : meta.header + size]
    if len(value) != size:
        raise ValueError("a value is longer than its page")
    found[key] = value


def _nodes(meta: Meta, data: bytes, *, leaf: bool) -> Iterator[tuple[int, int, int]]:
    """Of each node of a page: the size of its value or the page it points to, its flags, its place."""
    lower = int.from_bytes(data[meta.word + 4 : meta.word + 6], sys.byteorder)
    if not meta.header <= lower <= len(data):
        raise ValueError("a page's bounds are wrong")
    count = (lower - meta.header) // 2
    for at in struct.unpack_from(f"={count}H", data, meta.header):
        if not meta.header <= at <= len(data) - _NODE.size:
            raise ValueError("an entry lies outside its page")
        low, high, flags, key_size = _NODE.unpack_from(data, at)
        if at + _NODE.size + key_size > len(data):
            raise ValueError("a key is longer than its page")
        if sys.byteorder == "big":
            low, high = high, low
        number = low | high << 16
        if not leaf and meta.word == 8:
            number |= flags << 32  # "mn_flags: used for high bits of pgno on branch nodes"
        yield number, flags, at


def _page(meta: Meta, page: Callable[[int, int], bytes], number: int, count: int = 1) -> bytes:
    last = min(meta.last_page, _MOST_BYTES // meta.page_size)
    if not 2 <= number <= last or number + count - 1 > last:
        raise ValueError(f"page {number} is not one of the file's")
    data = page(number, count)
    if len(data) != count * meta.page_size:
        raise ValueError(f"page {number} lies behind the end of the file")
    return data


def _flags(meta: Meta, data: bytes) -> int:
    return int.from_bytes(data[meta.word + 2 : meta.word + 4], sys.byteorder)


def _meta(head: bytes, at: int) -> Meta | None:
    """The snapshot that the page at *at* describes; None when it is not one."""
    for word, letter in ((8, "Q"), (4, "I")):
        header = word + 8
        # MDB_meta: magic, version, address, map size, two MDB_db, last page, transaction;
        # MDB_db: padding (in the first: the page size), flags, depth, four counts, root
        layout = struct.Struct(f"=II{letter}{letter}" + f"IHH5{letter}" * 2 + letter * 2)
        if len(head) < at + header + layout.size:
            continue
        fields = layout.unpack_from(head, at + header)
        if fields[:2] != (MAGIC, VERSION):
            continue
        page_size, root, last_page, txnid = fields[4], fields[19], fields[20], fields[21]
        sizes_fit = _PAGE_SIZES[0] <= page_size <= _PAGE_SIZES[1] and page_size & (page_size - 1) == 0
        if not sizes_fit or fields[13] & _DUPLICATES:
            return None
        nothing = (1 << word * 8) - 1  # P_INVALID
        return Meta(txnid, None if root == nothing else root, last_page, page_size, word)
    return None
