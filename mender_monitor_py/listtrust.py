"""
Whether a signed list is to be trusted: the rules behind the signature itself.

Pure. A signature tells who wrote a list, not when, nor for which check: both are part of what is signed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mender_monitor_py.baseline import Listing, parse


@dataclass(frozen=True, slots=True)
class Signed:
    """A list, and whether its signature is that of a trusted key."""

    data: bytes
    valid: bool

    @property
    def listing(self) -> Listing[object]:
        return parse(self.data, "", list)


def distrust(check: str, found: Signed | None, has_signature: bool, kept: Signed | None) -> str:
    """
    Why the list *found* of *check* does not count; empty: it does.

    *kept* is the one that was trusted last, if there is one, and if it is still as it was.
    """
    if found is None:
        return "the list is missing"
    if not has_signature:
        return "the list is not signed"
    if not found.valid:
        return "the signature does not fit: the list was changed, or the key is none of trusted.d"
    listing = found.listing
    if listing.check != check:
        return f"it is not the list of this check, but of {listing.check[:80] or 'none'!r}"
    if kept is None or found.data == kept.data:
        return ""
    if listing.serial < kept.listing.serial:
        return f"the list is older than the one trusted last: serial {listing.serial} < {kept.listing.serial}"
    if listing.serial == kept.listing.serial:
        return f"the list is another than the one trusted last, but has its serial, {listing.serial}"
    return ""
