"""mender.conf, as the update client merges its two files."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.menderconf import MenderConf, parse


def read(main: Any = None, fallback: Any = None) -> MenderConf:
    return parse(*(None if value is None else json.dumps(value) for value in (main, fallback)))


def test_no_files_is_an_empty_configuration() -> None:
    assert parse(None, None) == MenderConf()


def test_the_main_file_wins_key_by_key_whatever_the_case() -> None:
    conf = read(
        {"serverurl": "https://new/", "TenantToken": "t"},
        {"ServerURL": "https://old", "ServerCertificate": "/old.crt"},
    )
    assert conf.servers == ("https://new",)
    assert conf.server_certificate == "/old.crt"
    assert conf.tenant_token == "t"
    assert conf.warnings == ()


def test_servers_keep_their_order() -> None:
    conf = read({"Servers": [{"ServerURL": "https://a/"}, {"serverURL": "https://b"}, "x", {"other": 1}]})
    assert conf.servers == ("https://a", "https://b")


def test_servers_and_server_url_together_drop_the_file_that_brings_the_second() -> None:
    conf = read({"Servers": [{"ServerURL": "https://b"}], "TenantToken": "t"}, {"ServerURL": "https://a"})
    assert conf.servers == ("https://a",)
    assert conf.tenant_token == ""
    assert "Servers" in conf.warnings[0]


def test_https_client_is_merged_by_key() -> None:
    conf = read({"HttpsClient": {"Key": "/k"}}, {"httpsclient": {"certificate": "/c", "key": "/old"}})
    assert (conf.client_certificate, conf.client_key) == ("/c", "/k")


def test_half_a_client_certificate_is_none() -> None:
    conf = read({"HttpsClient": {"Certificate": "/c"}})
    assert conf.client_certificate == ""
    assert "both" in conf.warnings[0]


def test_skip_verify_is_not_followed_and_said() -> None:
    assert "SkipVerify" in read({"SkipVerify": True}).warnings[0]
    assert read({"SkipVerify": False}).warnings == ()


def test_a_broken_file_is_a_warning_and_the_other_counts() -> None:
    conf = parse("{broken", '{"ServerURL": "https://a"}')
    assert conf.servers == ("https://a",)
    assert "not JSON" in conf.warnings[0]
    assert "object" in parse("[]", None).warnings[0]


def test_values_of_a_wrong_type_are_skipped() -> None:
    conf = read({"ServerURL": 5, "ServerCertificate": ["x"], "HttpsClient": "no", "TenantToken": None})
    assert conf == MenderConf()


def test_secrets_are_not_shown() -> None:
    assert "geheim" not in repr(read({"TenantToken": "geheim"}))


@given(
    st.text(max_size=50),
    st.recursive(st.none() | st.booleans() | st.text(max_size=5), st.lists).map(json.dumps),
)
def test_any_text_is_survived(main: str, fallback: str) -> None:
    assert isinstance(parse(main, fallback), MenderConf)


NAMES = st.sampled_from(["ServerURL", "Servers", "httpsClient", "HttpsClient", "SkipVerify", "TenantToken"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_any_json_is_survived(main: dict[str, Any], fallback: dict[str, Any]) -> None:
    assert isinstance(read(main, fallback), MenderConf)
