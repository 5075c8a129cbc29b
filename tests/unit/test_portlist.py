"""Entries of the list of ports, and the verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import portlist
from mender_monitor_py.baseline import inline
from mender_monitor_py.portlist import Entry, Holder, Listener, begins_entry, relevant

SSHD = Holder(1, "sshd", "/usr/sbin/sshd")
NC = Holder(2, "nc", "/usr/bin/nc")


def entries(text):
    return inline(text, Entry.parse, begins_entry)


@pytest.mark.parametrize(
    ("entry", "allowed"),
    [
        ("tcp 22 sshd /usr/sbin/sshd", True),
        ("tcp 22", True),
        ("tcp 22 *", True),
        ("tcp 20-22 ssh? /usr/sbin/*", True),
        ("tcp 22 sshd /usr/*", False),
        ("tcp 22 sshd /usr/**", True),
        ("udp 22", False),
        ("tcp 23-80", False),
        ("tcp 22 - -", False),
        ("tcp 22 nc *", False),
    ],
)
def test_what_an_entry_allows(entry, allowed):
    expected, unexpected = portlist.ports([Listener("tcp", 22, "::", holders=(SSHD,))], entries(entry))
    assert (len(expected), len(unexpected)) == ((1, 0) if allowed else (0, 1))


@pytest.mark.parametrize("text", ["tcp", "tcp x", "tcp 70000", "sctp 1", "tcp 1 a b c", "tcp 1-", "tcp -1"])
def test_a_bad_entry_is_refused_with_a_reason(text):
    if text == "tcp 1-":
        assert entries(text)[0].high == 1
        return
    with pytest.raises(ValueError, match=text.split()[0]):
        entries(text)


def test_one_finding_for_all_sockets_of_a_port_and_an_executable():
    listeners = [
        Listener("tcp", 80, "0.0.0.0", holders=(NC, NC._replace(pid=3))),
        Listener("tcp", 80, "::", holders=(NC._replace(pid=3),)),
        Listener("tcp", 80, "0.0.0.0", holders=(SSHD,)),
        Listener("tcp", 80, "0.0.0.0", namespace="netns x", holders=(NC,)),
        Listener("tcp", 80, "0.0.0.0"),
    ]
    _, found = portlist.ports(listeners, [])
    assert [port.subject for port in found] == [
        "tcp/80 /usr/bin/nc",
        "tcp/80 /usr/sbin/sshd",
        "tcp/80 /usr/bin/nc in netns x",
        "tcp/80 (no process found)",
    ]
    assert found[0].addresses == ("0.0.0.0", "[::]")
    assert [other.pid for other in found[0].others] == [3]


def test_a_socket_is_expected_when_one_of_its_holders_is():
    """A service manager and the service that it started share the socket."""
    listener = Listener("tcp", 22, "::", holders=(Holder(1, "systemd", "/sbin/init"), SSHD))
    assert portlist.ports([listener], entries("tcp 22 sshd *"))[1] == []


@pytest.mark.parametrize(
    ("text", "counts"),
    [("", False), ("udp 40000 x", True), ("udp 39990-40010", True), ("udp 1-65535", False)],
)
def test_an_ephemeral_port_counts_when_the_list_speaks_of_it(text, counts):
    one = Listener("udp", 40000, "0.0.0.0", ephemeral=True)
    assert relevant(one, entries(text), loopback_too=False) == counts
    assert not relevant(one._replace(loopback=True), entries(text), loopback_too=False)


texts = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@given(st.sampled_from(["tcp", "udp"]), st.integers(0, 65535), texts, texts)
def test_the_row_of_a_port_expects_that_port(protocol, number, name, executable):
    listener = Listener(protocol, number, "::", holders=(Holder(9, name, executable),))
    ((port,), none) = portlist.ports([listener], [])[::-1]
    assert none == []
    assert Entry.parse(port.row.split()).allows(port)
    assert entries(port.row) == (Entry.parse(port.row.split()),)


@given(st.text(max_size=40))
def test_any_text_is_entries_or_a_reason(text):
    try:
        entries(text)
    except ValueError as error:
        assert str(error)
