"""What the watcher and the sender process say to each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.protocol import Reply, Setup, decode, encode, printable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


def test_a_setup_arrives_as_it_was() -> None:
    setup = Setup("u", ("https://a", "https://b"), "ca", "crt", "key", "tt", "dk", "{}", {"http_proxy": "p"})
    line = encode(setup.message())
    assert line.count(b"\n") == 1
    assert Setup.from_message(decode(line)) == setup


def test_a_setup_shows_no_secret() -> None:
    shown = repr(
        Setup(client_key="SECRET", tenant_token="SECRET", device_key="SECRET", proxies={"a": "SECRET"})
    )
    assert "SECRET" not in shown


def test_a_reply_arrives_as_it_was() -> None:
    reply = Reply(429, 'a\n"b"', 30.0, 2)
    assert Reply.from_message(decode(encode(reply.message()))) == reply


@given(
    st.dictionaries(
        st.sampled_from(["status", "body", "retry_after", "requests", "error", "wait", "x"]), VALUES
    )
)
def test_anything_else_is_a_value_error(message: dict[str, Any]) -> None:
    """
    The watcher runs as root, the sender process does not: what comes from there is checked.
    """
    try:
        reply = Reply.from_message(message)
    except ValueError:
        return
    assert isinstance(reply.status, int)
    assert isinstance(reply.body, str)


@pytest.mark.parametrize(
    "fields",
    [
        {"retry_after": float("nan")},
        {"retry_after": float("inf")},
        {"retry_after": -1},
        {"requests": 10**9},
        {"requests": -1},
        {"wait": "forever"},
        {"other": 1},
    ],
)
def test_a_reply_cannot_stop_the_watcher_for_good(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a reply"):
        Reply.from_message(decode(encode({"status": 429, **fields})))


@pytest.mark.parametrize("line", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"5"])
def test_a_damaged_line_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


@given(st.text(max_size=400))
def test_printable_is_one_bounded_line(text: str) -> None:
    shown = printable(text, 100)
    assert shown.isprintable()
    assert len(shown) <= 101
    json.dumps(shown).encode()
