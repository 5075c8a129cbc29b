"""Which networks are expected, and how they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import wifiwatch
from mender_monitor_py.nl80211 import Network
from mender_monitor_py.wifisecurity import OPEN, WEAK, WPA2, WPA3, Security
from mender_monitor_py.wifiwatch import Absence, Rule, Watch, bssids, reason, shown, ssids

GRADES = (
    Security(OPEN, "open"), Security(WEAK, "WEP"), Security(WPA2, "WPA2 (PSK)"), Security(WPA3, "WPA3 (SAE)"),
)  # fmt: skip


def network(ssid: bytes = b"plant-floor", bssid: str = "02:00:00:00:00:00", grade: int = WPA2) -> Network:
    return Network(ssid, bssid, 2412, GRADES[grade], -40.0)


@pytest.mark.parametrize(
    ("rule", "seen", "faults"),
    [
        (Rule((b"plant-floor",)), network(), ()),
        (Rule((b"other", b"plant-floor")), network(), ()),
        (Rule((b"plant-floor",)), network(b"Plant-Floor"), ("the SSID Plant-Floor is not expected",)),
        (Rule((b"plant-floor",)), network(b"plant-floor\0"), (r"the SSID plant-floor\000 is not expected",)),
        (Rule(bssids=("02:00:00:00:00:00",)), network(), ()),
        (Rule(bssids=("02:00:00:*",)), network(), ()),
        (
            Rule(bssids=("02:00:01:*",)), network(),
            ("the BSSID 02:00:00:00:00:00 is not expected",),
        ),
        (Rule(), network(grade=WEAK), ("the security is WEP, below wpa2",)),
        (Rule(security="wpa3"), network(), ("the security is WPA2 (PSK), below wpa3",)),
        (Rule(security="wpa3"), network(grade=WPA3), ()),
        (Rule(security="any"), network(grade=OPEN), ()),
    ],
)  # fmt: skip
def test_what_is_expected(rule, seen, faults):
    assert rule.faults(seen) == faults


def test_several_faults_are_told_together():
    rule = Rule((b"plant-floor",), ("02:00:00:00:00:00",))
    assert len(rule.faults(network(b"evil", "02:00:00:00:09:00", OPEN))) == 3


def test_the_first_network_is_learned_and_remembered():
    watch = Watch(Rule(), "")
    assert watch.see(network(), authorised=True) == ((), True)
    assert watch.see(network(bssid="02:00:00:00:07:00"), authorised=True) == ((), False)
    again = Watch(Rule(), watch.memory())
    assert again.learned == b"plant-floor"
    assert again.last == network(bssid="02:00:00:00:07:00")
    assert again.see(network(b"evil"), authorised=True).faults == ("the SSID evil is not expected",)
    assert again.see(network(), authorised=True) == ((), False)


def test_what_is_insecure_or_lets_nobody_in_is_not_learned():
    watch = Watch(Rule(), "")
    assert watch.see(network(b"free", grade=OPEN), authorised=True).faults
    assert watch.see(network(b"denies"), authorised=False) == (None, False)
    assert watch.learned == b""
    assert watch.last is None


def test_a_name_in_the_file_takes_the_place_of_what_was_learned():
    """And what was learned is forgotten: without the name, the first one counts again."""
    watch = Watch(Rule(), "")
    watch.see(network(), authorised=True)
    named = Watch(Rule((b"new",)), watch.memory())
    assert named.see(network(), authorised=True).faults
    assert named.see(network(b"new"), authorised=True).faults == ()
    anew = Watch(Rule(), named.memory())
    assert anew.see(network(b"newer"), authorised=True) == ((), True)


def test_an_unexpected_network_is_told_before_it_lets_anybody_in():
    watch = Watch(Rule((b"plant-floor",), ("02:00:00:00:00:00",)), "")
    twin = network(bssid="02:00:00:00:09:00")
    verdict = watch.see(twin, authorised=False)
    assert verdict.faults
    text = watch.describe(twin, verdict, authorised=False)
    assert "it has not let the device in" in text
    assert "before: not known" in text


@pytest.mark.parametrize(
    "memory",
    [
        "", "x", "[]", "null", '{"learned": 5, "last": null}', '{"learned": "zz", "last": null}',
        '{"learned": "61"}', '{"learned": "61", "last": {"ssid": "61"}}',
    ],
)  # fmt: skip
def test_a_damaged_memory_is_none(memory):
    watch = Watch(Rule(), memory)
    assert (watch.learned, watch.last) == (b"", None)


@pytest.mark.parametrize(
    ("since", "grace", "due"), [(1000.0, 60.0, 1060.0), (20.0, 60.0, 180.0), (150.0, 60.0, 210.0)]
)
def test_patience_after_boot(since, grace, due):
    assert Absence(since, "").due(grace) == due


@pytest.mark.parametrize(
    ("ssid", "text"),
    [
        (b"plant-floor", "plant-floor"),
        (b"Guest WLAN", '"Guest WLAN"'),
        ("Café".encode(), "Café"),
        (b'a"b\\c', r"a\042b\134c"),
        (b"caf\xe9", r"caf\351"),
        ("a\u202eb".encode(), r"a\342\200\256b"),
        (b"\x1b[31m\n", r"\033[31m\012"),
        ("a\u00a0b".encode(), r"a\302\240b"),
        (b"", "(hidden)"),
    ],
)
def test_ssids_are_shown_so_that_nothing_is_taken_for_something_else(ssid, text):
    assert shown(ssid) == text


def test_a_letter_of_another_alphabet_shows_its_bytes():
    assert "(hex 706cd0b06e74)" in wifiwatch.describe(network("plаnt".encode()))  # noqa: RUF001


@given(st.lists(st.binary(min_size=1, max_size=32), max_size=5))
def test_an_ssid_is_read_as_it_is_shown(wanted):
    assert ssids("  ".join(map(shown, wanted))) == tuple(wanted)


@given(st.text(max_size=80))
def test_any_text_is_ssids_or_an_error(text):
    try:
        found = ssids(text)
    except ValueError:
        return
    assert all(1 <= len(ssid) <= 32 for ssid in found)


@pytest.mark.parametrize("text", ['"open', "a\\b", 'a"b"', '""', "x" * 33, r"\400"])
def test_what_is_no_ssid(text):
    with pytest.raises(ValueError, match=r"SSID|bytes"):
        ssids(text)


def test_addresses_in_every_spelling():
    assert bssids("02:00:00:00:01:00 AA-BB-CC-DD-EE-FF 02:00:00:*") == (
        "02:00:00:00:01:00", "aa:bb:cc:dd:ee:ff", "02:00:00:*",
    )  # fmt: skip
    for wrong in ("02:00:00:00:01", "02:00:00:00:01:00:00", "plant-floor", "02:00:00:00:01:0g", "*:"):
        with pytest.raises(ValueError, match="no address"):
            bssids(wrong)


def test_reasons():
    assert reason(0, False) == ""
    assert reason(3, False) == "ended by the device, reason 3 (the other side leaves)"
    assert reason(15, True).startswith("ended by the access point, reason 15 (no key was agreed on")
    assert reason(999, True) == "ended by the access point, reason 999"


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"\xff" * 32]), st.sampled_from([OPEN, WPA2]), st.booleans()),
        max_size=12,
    )
)
def test_only_what_was_let_in_and_is_secure_is_ever_learned(seen):
    """Whatever comes: the first good one stays, and a restart in between changes nothing."""
    watch, good = Watch(Rule(), ""), [ssid for ssid, grade, let_in in seen if grade == WPA2 and let_in]
    for ssid, grade, let_in in seen:
        verdict = watch.see(network(ssid, grade=grade), let_in)
        if verdict.faults == ():
            assert (ssid, grade, let_in) == (good[0], WPA2, True)
        watch = Watch(Rule(), watch.memory())
    assert watch.learned == (good[0] if good else b"")
