"""The logs of deployments, as both generations of the update client write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import deploymentlog
from mender_monitor_py.deploymentlog import LINES, MAX_LINE, DeploymentLog

ID = "6f1c2c39-1d4a-4a4b-9d2e-0f6f1a3f2b1c"


def log(*messages: str | tuple[str, str], stamp: str = "2026-11-25T10:00:00Z") -> DeploymentLog:
    pairs = [("info", one) if isinstance(one, str) else one for one in messages]
    lines = [json.dumps({"level": level, "message": text, "timestamp": stamp}) for level, text in pairs]
    return parsed("\n".join(lines).encode())


def parsed(data: bytes) -> DeploymentLog:
    return deploymentlog.parse(ID, ((place, line) for place, line in enumerate(data.split(b"\n"))))


def go(*transitions: str) -> list[str]:
    return [f"State transition: {one}" for one in transitions]


STARTED = f"Deployment with ID {ID} started."
SUCCESS = f"Deployment with ID {ID} finished with status: Success"
FAILURE = f"Deployment with ID {ID} finished with status: Failure"


@pytest.mark.parametrize(
    ("messages", "success", "phase", "rolled_back"),
    [
        ([STARTED], None, "", False),
        ([STARTED, SUCCESS], True, "", False),
        ([STARTED, FAILURE], False, "", False),
        ([STARTED, FAILURE, STARTED], None, "", False),
        ([FAILURE.replace(ID, "another")], None, "", False),
        ([f"Update module output: {SUCCESS}"], None, "", False),
        ([f"{SUCCESS}\n"], None, "", False),
        (
            [
                STARTED,
                (
                    "error",
                    "Process returned non-zero exit status: ArtifactInstall: Process exited with status 1",
                ),
                FAILURE,
            ],
            False,
            "ArtifactInstall",
            False,
        ),
        (
            [
                (
                    "error",
                    "Received error: (exit 1) when running the State Script scripts ArtifactCommit_Enter",
                ),
                FAILURE,
            ],
            False,
            "ArtifactCommit_Enter",
            False,
        ),
        (go("cleanup [none] -> update-status-report [none]"), True, "", False),
        (go("update-store [Download_Enter] -> update-status-report [none]"), False, "update-store", False),
        (
            go(
                "update-install [ArtifactInstall] -> rollback [ArtifactRollback]",
                "rollback [ArtifactRollback] -> update-error [ArtifactFailure]",
                "update-error [ArtifactFailure] -> cleanup [Error]",
                "cleanup [Error] -> update-status-report [none]",
                "update-status-report [none] -> update-retry-report [none]",
                "update-retry-report [none] -> update-status-report [none]",
            ),
            False,
            "update-install",
            True,
        ),
        (
            [
                ("error", "Mender shut down in state: update-install"),
                *go("init [none] -> rollback [ArtifactRollback]"),
            ],
            None,
            "update-install",
            True,
        ),
        (
            go(
                "cleanup [Error] -> update-status-report [none]",
                "update-fetch [Download_Enter] -> update-store [Download_Enter]",
            ),
            None,
            "",
            False,
        ),
    ],
)
def test_the_end_and_the_phase(messages, success, phase, rolled_back) -> None:
    found = log(*messages)
    assert (found.success, found.phase, found.rolled_back) == (success, phase, rolled_back)


OPENED = "Running Mender client version: 3.4.0+ds1-5+b1"
FETCHED = "State transition: update-fetch [Download_Enter] -> update-store [Download_Enter]"
REFUSED = "State transition: update-store [Download_Enter] -> update-status-report [none]"
RETRIED = go(
    "update-store [Download_Enter] -> fetch-install-retry-wait [Download_Enter]",
    "fetch-install-retry-wait [Download_Enter] -> update-fetch [Download_Enter]",
    "update-fetch [Download_Enter] -> update-store [Download_Enter]",
)
RESUMED = [
    OPENED,
    ("error", "Mender shut down in state: update-store"),
    "State transition: init [none] -> cleanup [Error]",
    "State transition: cleanup [Error] -> update-status-report [none]",
]
REPORTED = go("update-status-report [none] -> update-retry-report [none]")


@pytest.mark.parametrize(
    ("first", "second", "success"),
    [
        ([STARTED, FAILURE], [STARTED], None),
        ([STARTED, FAILURE], [STARTED, FAILURE], False),
        ([OPENED, FETCHED, REFUSED], [OPENED, FETCHED], None),
        ([OPENED, FETCHED, REFUSED], [FETCHED], None),
        ([OPENED, FETCHED], [OPENED, FETCHED, REFUSED], False),
    ],
)
def test_a_deployment_that_is_tried_again(first, second, success) -> None:
    """Its log goes on."""
    once, again = log(*first), log(*first, *second)
    assert once.run and again.run and once.run != again.run
    assert again.success is success


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ([STARTED, FAILURE], ["Deployment with ID another started.", FAILURE]),
        ([OPENED, FETCHED], RETRIED),
        ([OPENED, FETCHED], RESUMED),
        ([OPENED, FETCHED, REFUSED], REPORTED),
        ([OPENED, FETCHED, REFUSED], [OPENED]),
    ],
)
def test_what_comes_after_is_the_same_deployment(first, more) -> None:
    once, again = log(*first), log(*first, *more)
    assert once.run and once.run == again.run


@pytest.mark.parametrize("before", [[], [OPENED, FETCHED, REFUSED]])
def test_the_first_report_is_refused(before) -> None:
    """The older client reports before it says by a transition that the deployment began."""
    refused = "State transition: update-fetch [Download_Enter] -> update-status-report [none]"
    found = log(
        *before, OPENED, ("warning", "Status report rejected, deployment aborted at the backend"), refused
    )
    assert (found.success, found.aborted, found.phase) == (False, True, "update-fetch")
    assert not log(*before, OPENED, refused).aborted


def test_one_that_began_at_another_time() -> None:
    assert log(STARTED).run != log(STARTED, stamp="2026-11-25T10:00:01Z").run
    assert not log(FAILURE).run


CLAIMS = "Artifact name in artifact is not what the server claims (a != b)."
EXITED = "Process returned non-zero exit status: ArtifactInstall: Process exited with status 1"
SCRIPT = (
    "transient error: error calling enter script for (error) update-install state: error running enter "
    "state script(s) for ArtifactInstall state: statescript: error executing 'ArtifactInstall_Enter_10': 1"
)
TERMINATED = "Update module terminated abnormally: exit status 1"


@pytest.mark.parametrize(
    ("messages", "quiet", "failed", "phase"),
    [
        ([], True, False, ""),
        ([("warning", "Returning artifact name from /etc/mender/artifact_info file.")], True, False, ""),
        # As Debian's client writes at DaemonLogLevel=warning.
        ([("error", TERMINATED), ("error", f"transient error: {TERMINATED}")], True, True, ""),
        ([("error", f"Artifact install failed: Payload: {TERMINATED}")], True, True, "update-store"),
        ([("error", CLAIMS)], True, True, "update-store"),
        (
            [("error", TERMINATED), ("error", f"transient error: update commit failed: {TERMINATED}")],
            True,
            True,
            "update-commit",
        ),
        ([("error", SCRIPT)], True, True, "ArtifactInstall"),
        ([("error", EXITED)], True, True, "ArtifactInstall"),
        ([("error", "Failed to report status: the server cannot be reached")], True, False, ""),
        ([("warning", TERMINATED)], True, False, ""),
        ([STARTED, ("error", TERMINATED)], False, False, ""),
        ([("debug", "x"), ("error", TERMINATED)], False, False, ""),
    ],
)
def test_a_client_that_logs_errors_only(messages, quiet, failed, phase) -> None:
    found = log(*messages)
    assert (found.success, found.quiet, found.failed, found.phase) == (None, quiet, failed, phase)


GO_ABORT = ("warning", "Status report rejected, deployment aborted at the backend")
CPP_ABORT = ("error", "Could not send deployment status: Deployment was aborted on the server: HTTP 409")
REJECTED = "error reporting update status: deployment was aborted server error message: aborted"


@pytest.mark.parametrize(
    ("messages", "aborted", "phase"),
    [
        (
            [
                *go("update-fetch [Download_Enter] -> update-store [Download_Enter]"),
                GO_ABORT,
                ("error", REJECTED),
                *go("update-store [Download_Enter] -> update-status-report [none]"),
                GO_ABORT,
            ],
            True,
            "update-store",
        ),
        ([STARTED, CPP_ABORT, FAILURE], True, ""),
        # It had failed before the client heard that it was aborted, too.
        (
            [
                *go("update-install [ArtifactInstall] -> rollback [ArtifactRollback]"),
                *go("cleanup [Error] -> update-status-report [none]"),
                GO_ABORT,
            ],
            False,
            "update-install",
        ),
        # Modules and scripts write into this log.
        ([("info", f"Update module output: {GO_ABORT[1]}"), FAILURE], False, ""),
        ([STARTED, CPP_ABORT, FAILURE, STARTED], False, ""),
    ],
)
def test_the_server_aborts(messages, aborted, phase) -> None:
    found = log(*messages)
    assert (found.aborted, found.phase) == (aborted, phase)


def test_the_artifact_and_no_secret() -> None:
    found = log(
        "Validating the Update Info: https://u:pw@s3.example.com/a?X-Amz-Signature=abc "
        "[name: r2; devices: [t]]",
        "authorization: Bearer eyJhbGciOi",
        "token=abcdef\x1b[31m",
    )
    assert found.artifact == "r2"
    text = "\n".join(found.lines)
    assert "s3.example.com/***" in text
    for secret in ("Signature", "pw", "eyJ", "abcdef", "\x1b"):
        assert secret not in text


@pytest.mark.parametrize(
    "message",
    [
        "got token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2VjcmV0",
        'config: {"TenantToken": "c2VjcmV0"}',
        'config: {"tenant_token":"c2VjcmV0"}',
        "TenantToken: c2VjcmV0",
        "query X-Amz-Signature=c2VjcmV0&X-Amz-Date=1",
        "?Signature=c2VjcmV0",
        'applies {"wifi": {"psk":"c2VjcmV0"}, "n": 1}',
        '{"admin-password" : "with \\" c2VjcmV0"}',
        "{'client_secret': 'c2VjcmV0'}",
        '{"api_key": c2VjcmV0}',
        "db:  password: c2VjcmV0",
        "network={ ssid=x psk=c2VjcmV0 }",
        "> X-Api-Key: c2VjcmV0",
        "> X-MEN-Signature: c2VjcmV0",
        'Update Module output: psk="correct c2VjcmV0"',
        'writing password="c2VjcmV0" to x',
        'DB_PASSWORD="c2VjcmV0"',
        'wifi.password = "c2VjcmV0"',
        'secret = "a b c2VjcmV0"',
        "config: password='c2VjcmV0'",
        "password=a,c2VjcmV0",
        'Set-Cookie: "JWT=c2VjcmV0"',
        "> Cookie: a=b; JWT=c2VjcmV0",
        "Private-Token: c2VjcmV0",
        "x-vault-token: c2VjcmV0",
        "--token c2VjcmV0 was refused",
        "curl --token c2VjcmV0",
        r"sent {\"password\": \"a c2VjcmV0\"}",
        r"sent {\"token\":\"a c2VjcmV0",
        'token: "c2VjcmV0"',
        "secret=c2VjcmV0",
        "pwd = c2VjcmV0",
        "config: {password: c2VjcmV0}",
    ],
)
def test_tokens_and_signatures_are_masked_wherever_they_are(message: str) -> None:
    """
    A module may write what it was given.
    """
    shown = deploymentlog.fit(message)
    assert "c2VjcmV0" not in shown and "***" in shown


@pytest.mark.parametrize(
    "message",
    [
        "the token has expired; no signature: the key is not known",
        "checksum mismatch: expected 30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
        "error getting token: connection refused",
        "the secret: it is not there",
        "transient error: Update module terminated abnormally: exit status 1",
    ],
)
def test_what_says_why_is_not_masked(message: str) -> None:
    assert deploymentlog.fit(message) == message


def test_what_comes_after_a_secret_is_shown() -> None:
    shown = deploymentlog.fit(
        'psk="correct horse" and then exit status 1; {\\"token\\": \\"a\\", \\"n\\": 1}'
    )
    assert shown == 'psk=*** and then exit status 1; {\\"token\\": ***, \\"n\\": 1}'


@given(st.text(st.sampled_from("\\\"'=: passwordtken-._"), max_size=3000))
def test_no_message_takes_long(message) -> None:
    """Nested repetitions would take for ever on such text."""
    deploymentlog.fit(message)


def test_only_the_last_lines_are_kept_and_none_of_debug() -> None:
    found = log(*[("debug", "noise")] * 100, *[f"line {n}" for n in range(100)], "x" * 30_000)
    assert len(found.lines) == LINES
    assert found.lines[0] == f"info: line {100 - LINES + 1}"
    assert len(found.lines[-1]) < MAX_LINE + 20


@pytest.mark.parametrize(
    ("stamp", "zone", "began"),
    [
        ("2026-11-25T10:00:00+09:00", "UTC", 1_795_568_400.0),
        # the newer client's: local time with a wrong Z
        ("2026-11-25T10:00:00.000000Z", "Asia/Tokyo", 1_795_568_400.0),
        ("nonsense", "UTC", 0.0),
    ],
)
def test_when_it_began(stamp, zone, began, monkeypatch) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert log("x", stamp=stamp).began == began
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.binary(max_size=400) | st.lists(st.text(max_size=80)).map(lambda t: json.dumps(t).encode()))
def test_any_bytes_are_read(data: bytes) -> None:
    found = parsed(data)
    assert len(found.lines) <= LINES


@given(st.text())
def test_any_message_is_one_printable_line(text: str) -> None:
    shown = deploymentlog.fit(text)
    assert shown.isprintable()
    assert len(shown) <= MAX_LINE + 20
