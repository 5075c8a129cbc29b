"""Whether a signed list counts."""

from __future__ import annotations

import pytest

from mender_monitor_py.baseline import render
from mender_monitor_py.listtrust import Signed, distrust

NEW = render("ports external", 3, ["tcp 22"])


def signed(data: bytes, *, valid: bool = True) -> Signed:
    return Signed(data, valid)


@pytest.mark.parametrize(
    ("found", "has_signature", "kept", "reason"),
    [
        (signed(NEW), True, None, ""),
        (signed(NEW), True, signed(NEW), ""),
        (signed(NEW), True, signed(render("ports external", 2, [])), ""),
        (None, True, signed(NEW), "missing"),
        (signed(NEW, valid=False), False, None, "not signed"),
        (signed(NEW, valid=False), True, None, "does not fit"),
        (signed(render("ports internal", 3, [])), True, None, "but of 'ports internal'"),
        (signed(b"tcp 22\n"), True, None, "but of 'none'"),
        (
            signed(NEW),
            True,
            signed(render("ports external", 4, [])),
            "older than the one trusted last: serial 3 < 4",
        ),
        (signed(NEW), True, signed(render("ports external", 3, [])), "has its serial, 3"),
    ],
)
def test_a_list_counts_when_signed_for_this_check_and_not_older(found, has_signature, kept, reason):
    told = distrust("ports external", found, has_signature, kept)
    assert reason in told
    assert bool(reason) is bool(told)
