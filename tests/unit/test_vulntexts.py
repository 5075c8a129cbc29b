"""The text reports of debsecan and lynis, as these print them, and lines by a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.vulnerability import Vulnerability, merged
from mender_monitor_py.vulntexts import debsecan, lines, lynis, pattern

DETAIL = b"""\
CVE-2024-5535 (fixed, remotely exploitable, high urgency)
  Issue summary: Calling the OpenSSL API function ...
  installed: libssl3 3.0.11-1~deb12u2
             (built from openssl 3.0.11-1~deb12u2)
             package is obsolete
  fixed in unstable: openssl 3.3.2-1 (source package)
  fixed on branch:   openssl 3.0.15-1~deb12u1 (source package)
  fix is available for the selected suite (bookworm)

TEMP-0841856-B18BAF
  [Privilege escalation possible to other user than root]
  installed: bash 5.2.15-2+b7
             (built from bash 5.2.15-2)

"""
REPORT = b"""\
Security report based on the bookworm release

*** New security updates

CVE-2024-5535 Issue summary: Calling the OpenSSL API function...
  <https://security-tracker.debian.org/tracker/CVE-2024-5535>
  - libssl3, openssl (remotely exploitable, high urgency)

*** Fixed vulnerabilities

CVE-2020-1
  <https://security-tracker.debian.org/tracker/CVE-2020-1>
  - gone

*** Vulnerabilities without updates

CVE-2024-0001
  <https://security-tracker.debian.org/tracker/CVE-2024-0001>
  - linux-headers-6.1.0-28-amd64, linux-headers-6.1.0-28-common,
    linux-image-6.1.0-28-amd64
    (low urgency)

"""
LYNIS = b"""\
# Lynis Report
report_version_major=1
report_version_minor=0
report_datetime_start=2026-11-25 03:00:00
installed_packages_array=adduser,3.134|apt,2.6.1|
warning[]=PKGS-7392|Found one or more vulnerable packages.|-|-|
vulnerable_package[]=openssl
warning[]=FILE-6310|a message|with | in it|text:do that|
suggestion[]=SSH-7408|Consider hardening SSH configuration|AllowTcpForwarding (set YES to NO)|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|ClientAliveCountMax (set 3 to 2)|-|
suggestion[]=BOOT-5122|Set a password on GRUB boot loader|-|url:https://example.org/grub|
finish=true
"""


def found(parser: Callable[[bytes], Iterable[Vulnerability]], data: bytes) -> list[Vulnerability]:
    return merged(parser(data))


def test_debsecan_in_detail() -> None:
    ssl, bash = found(debsecan, DETAIL)
    assert ssl == Vulnerability(
        "CVE-2024-5535",
        "libssl3",
        "3.0.11-1~deb12u2",
        "high",
        "3.3.2-1, 3.0.15-1~deb12u1",
        "Issue summary: Calling the OpenSSL API function ... — remotely exploitable — obsolete",
        "https://security-tracker.debian.org/tracker/CVE-2024-5535",
    )
    assert (bash.id, bash.package, bash.severity) == ("TEMP-0841856-B18BAF", "bash", "unknown")


def test_debsecan_in_a_line_each() -> None:
    one, two = found(debsecan, b"CVE-2024-5535 libssl3 (fixed, high urgency)\nCVE-2024-1 bash\n")
    assert (one.key, one.severity, one.fixed) == (
        "CVE-2024-5535 libssl3",
        "high",
        "an update that the archive has",
    )
    assert (two.key, two.severity, two.fixed) == ("CVE-2024-1 bash", "unknown", "")
    assert [one.key for one in found(debsecan, b"CVE-2024-1\nCVE-2024-2\n")] == ["CVE-2024-1", "CVE-2024-2"]
    assert found(debsecan, b"") == []


def test_debsecan_as_a_report() -> None:
    keys = {one.key: one.severity for one in found(debsecan, REPORT)}
    assert keys == {
        "CVE-2024-5535 libssl3": "high",
        "CVE-2024-5535 openssl": "high",
        "CVE-2024-0001 linux-headers-6.1.0-28-amd64": "low",
        "CVE-2024-0001 linux-headers-6.1.0-28-common": "low",
        "CVE-2024-0001 linux-image-6.1.0-28-amd64": "low",
    }
    assert found(debsecan, b"Security report based on general data\n\nNo known vulnerabilities were\n") == []


@pytest.mark.parametrize(
    "data",
    [
        b"libssl3\nbash\n",  # --format packages
        b"error: could not open '/x': No such file or directory\n",
        b"CVE-2024-1 bash (fixed)\ngarbage here\n",
        b"CVE-2024-5535\n  installed: a 1\n\n  no head\n",
    ],
)
def test_what_debsecan_does_not_write(data: bytes) -> None:
    with pytest.raises(ValueError, match="debsecan writes no"):
        found(debsecan, data)


def test_lynis() -> None:
    by_key = {one.key: one for one in found(lynis, LYNIS)}
    assert [one.severity for one in by_key.values()] == ["high"] * 3 + ["low"] * 3
    warning = by_key["PKGS-7392 Found one or more vulnerable packages."]
    assert warning.name == "Vulnerability PKGS-7392: Found one or more vulnerable packages."
    assert warning.link == "https://cisofy.com/lynis/controls/PKGS-7392/"
    assert by_key["PKGS-7392 openssl"].name == "Vulnerability PKGS-7392 in openssl"
    assert by_key["FILE-6310 with | in it"].fixed == "do that"
    assert "SSH-7408 ClientAliveCountMax (set 3 to 2)" in by_key
    assert by_key["BOOT-5122 Set a password on GRUB boot loader"].link == "https://example.org/grub"


@pytest.mark.parametrize("data", [b"", b"warning[]=A|b|-|-|\n", LYNIS.replace(b"finish=true\n", b"")])
def test_a_lynis_report_that_is_none_or_has_no_end(data: bytes) -> None:
    with pytest.raises(ValueError, match="lynis"):
        found(lynis, data)


def test_lines_by_a_pattern_with_groups() -> None:
    wanted = pattern(r"^(?<severity>\w+): (?P<id>\S+) in (?<package>\S+) (?<version>\S+)$")
    one, two = merged(lines(b"noise\nhigh: CVE-2024-1111 in foo 1.0\nlow: X-1 in bar 2\n", wanted))
    assert (one.name, one.severity) == ("Vulnerability CVE-2024-1111 in foo 1.0", "high")
    assert (two.key, two.severity) == ("X-1 bar", "low")


def test_lines_by_a_pattern_without_groups() -> None:
    wanted = pattern("CVE.*HIGH|rootkit")
    one, two = merged(lines(b"12:00 foo CVE-2024-1111 is HIGH today\na rootkit!\n", wanted))
    assert (one.key, one.title) == (
        "CVE-2024-1111 CVE-2024-1111 is HIGH",
        "12:00 foo CVE-2024-1111 is HIGH today",
    )
    assert two.name == "Vulnerability rootkit"


@pytest.mark.parametrize("text", ["(", "(?P<1>x)", "a{99999999999}", "(?<=a*)b"])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        pattern(text)


PIECES = st.sampled_from([*DETAIL.splitlines(), *REPORT.splitlines(), *LYNIS.splitlines(), b"|||", b"="])


@pytest.mark.parametrize(
    "parser", [debsecan, lynis, lambda data: lines(data, re.compile("(?P<id>C.*)|(?P<title>s)"))]
)
@given(st.lists(PIECES | st.binary(max_size=30), max_size=20).map(b"\n".join))
def test_any_input_is_findings_or_a_value_error(
    parser: Callable[[bytes], Iterable[Vulnerability]], data: bytes
) -> None:
    try:
        telling = found(parser, data)
    except ValueError:
        return
    for one in telling:
        assert one.id
        assert one.name.isprintable()
        assert one.key.isprintable()
        assert len(one.name) < 1000
