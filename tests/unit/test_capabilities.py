"""File capabilities as text."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.capabilities import text


def attribute(
    revision: int, permitted: int, inheritable: int = 0, *, effective: bool, root: int = 0
) -> bytes:
    magic = revision << 24 | effective
    words = [magic, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF]
    if revision > 1:
        words += [permitted >> 32, inheritable >> 32]
    if revision == 3:
        words.append(root)
    return struct.pack(f"<{len(words)}I", *words)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ""),
        (attribute(2, 1 << 7, effective=True), "cap_setuid=ep"),
        (attribute(2, 1 << 12 | 1 << 13, effective=True), "cap_net_admin+cap_net_raw=ep"),
        (attribute(1, 1 << 21, effective=False), "cap_sys_admin=p"),
        (attribute(2, 1 << 39, 1 << 0, effective=False), "cap_chown=i/cap_bpf=p"),
        (attribute(3, 1 << 7, effective=True, root=1000), "cap_setuid=ep@1000"),
        (attribute(2, 1 << 63, effective=True), "cap_63=ep"),
        (attribute(2, 0, effective=True), ""),
        (attribute(4, 1, effective=True), "invalid:0100000401000000000000000000000000000000"),
        (b"\x01", "invalid:01"),
    ],
)
def test_capabilities_in_one_word(data, shown):
    assert shown == text(data)


@given(st.binary(max_size=200))
def test_any_attribute_is_one_short_printable_word(data):
    shown = text(data)
    assert len(shown.split()) <= 1
    assert shown.isprintable()
    assert len(shown) < 2000
