"""What is said of the traffic of an interface, for a person. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mender_monitor_py.trafficshares import Share
from mender_monitor_py.trafficwindow import Bytes

TOP = 3
_UNITS = ("", "K", "M", "G", "T", "P")
_WORDS = {"tx": "sent", "rx": "received", "both": "sent and received"}


def amount(count: int) -> str:
    """A number of bytes, as ``1.5M``: units of 1024, as the check files have them."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f}{_UNITS[unit]}" if unit and size < 99.95 else f"{size:.0f}{_UNITS[unit]}"


def span(seconds: float) -> str:
    """A time in the largest unit that it is whole in: ``1h``, ``90s``."""
    whole = round(seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if whole >= size and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def headline(name: str, count: Bytes, direction: str, seconds: float, limit: int) -> str:
    """How much it was, and how much it may be."""
    return (
        f"{amount(count.of(direction))} {_WORDS[direction]} over {name} within {span(seconds)}, "
        f"limit {amount(limit)}"
    )


def describe(count: Bytes, rate: Bytes, seconds: float, direction: str, shares: Sequence[Share]) -> list[str]:
    """
    The numbers, and whose bytes they are: *shares*, those with the most first.

    *rate* is that of the last moments, in bytes a second.
    """
    lines = [
        f"sent: {count.sent} bytes, received: {count.received} bytes",
        f"rate: {amount(rate.of(direction))} a second now, "
        f"{amount(round(count.of(direction) / seconds))} a second on average",
    ]
    own = sum(share.sum.of(direction) for share in shares if share.who.own)
    if own:
        lines.append(f"this monitor itself: {amount(own)}; its own sending counts")
    for number, share in enumerate(shares[:TOP], 1):
        itself = " (this monitor itself)" if share.who.own else ""
        lines.append(f"{number}. {share.who.label}{itself}: {_both(share.sum)}")
        lines += [f"   {line}" for line in share.who.lines]
    if len(shares) > TOP:
        rest = sum(share.sum.of(direction) for share in shares[TOP:])
        lines.append(f"{len(shares) - TOP} others: {amount(rest)}")
    known = sum(share.sum.of(direction) for share in shares)
    left = max(count.of(direction) - known, 0)
    lines.append(
        f"not attributed: {amount(left)} (UDP, ICMP, headers, what is forwarded, what was not seen in time)"
    )
    return lines


def _both(count: Bytes) -> str:
    return f"{amount(count.sent)} sent, {amount(count.received)} received"
