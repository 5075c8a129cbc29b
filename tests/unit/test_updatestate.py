"""What the store has of a deployment."""

from __future__ import annotations

import json
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import updatestate
from mender_monitor_py.updatestate import Managed, Standalone, Stored

STATE = {
    "Version": 2,
    "Name": "update-install",
    "UpdateInfo": {
        "ID": "d1",
        "Artifact": {
            "artifact_name": "release-2",
            "PayloadTypes": ["rootfs-image"],
            "Source": {"URI": "https://secret.example.com/?signature=1"},
        },
        "RebootRequested": ["reboot-type-automatic"],
        "SupportsRollback": "rollback-supported",
    },
}


def test_a_managed_deployment() -> None:
    found = updatestate.parse({b"state": json.dumps(STATE).encode(), b"artifact-name": b"release-1"})
    managed = Managed("update-install", "d1", "release-2", ("rootfs-image",))
    assert found == Stored(managed, None, "release-1")
    assert "signature" not in str(astuple(found))


def test_a_standalone_one_of_both_generations() -> None:
    old = {"Version": 1, "ArtifactName": "release-2", "PayloadTypes": ["single-file"]}
    new = {**old, "Version": 2, "InState": "Before_ArtifactCommit_Enter", "Failed": True}
    for value, wanted in (
        (old, Standalone("release-2", ("single-file",))),
        (new, Standalone("release-2", ("single-file",), "ArtifactCommit_Enter", failed=True)),
    ):
        found = updatestate.parse({b"standalone-state": json.dumps(value).encode()})
        assert found.standalone == wanted


@pytest.mark.parametrize("length", [10, 250, 256, 300, 5000])
def test_a_long_name_is_broken_all_the_same(length: int) -> None:
    """
    What an artifact is called decides nothing of how it ended.
    """
    name = "x" * length
    state = {**STATE, "UpdateInfo": {"ID": "d1", "Artifact": {"artifact_name": name}}}
    found = updatestate.parse(
        {b"state": json.dumps(state).encode(), b"artifact-name": f"{name}_INCONSISTENT".encode()}
    )
    assert found.managed is not None and found.artifact == f"{found.managed.artifact}_INCONSISTENT"


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_no_client_writes(text: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        updatestate.parse({b"state": text})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["UpdateInfo", "Artifact", "ID"]), inner),
)


@given(st.dictionaries(st.sampled_from(["Name", "UpdateInfo", "ArtifactName", "PayloadTypes"]), JSON))
def test_any_object_is_read(value) -> None:
    text = json.dumps(value).encode()
    found = updatestate.parse({b"state": text, b"standalone-state": text})
    assert found.managed is not None
    assert found.standalone is not None
