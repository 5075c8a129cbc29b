"""
A stand-in for the update client's traces on the disk: store, logs, work tree, of both generations.

It writes what the real ones write: 3.4 (``go``) as tests/system sees it, 5.1 (``cpp``) as its sources say.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import lmdb

from tests.fakes.executed import executed

Generation = Literal["go", "cpp"]
SECRET = "X-Amz-Signature=0123456789abcdef"
URI = f"https://storage.example.com/artifact?{SECRET}"
# Who installs by hand is looked for among all processes: those of another test run are none of this one's.
PROGRAM = f"mender-of-{os.getpid()}"
_BEGAN = datetime(2026, 11, 25, 10, tzinfo=UTC)
_NUMBER = {"go": 1, "cpp": 0}
_KEPT = 5


class UpdateFiles:
    """The files of a client whose datastore is *folder*; *logs* is UpdateLogPath: without it, the same."""

    def __init__(
        self,
        folder: Path,
        generation: Generation = "go",
        artifact: str = "release-1",
        *,
        logs: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.logs = logs or folder
        self.generation = generation
        self.id = ""
        self._begun = 0
        self._installer: subprocess.Popen[bytes] | None = None
        with self._store() as put:
            if artifact:  # else a device that never had an update
                put("artifact-name", artifact)

    @property
    def newest(self) -> str:
        """The number of the log of the deployment that began last."""
        return f"{_NUMBER[self.generation]:04}"

    @property
    def tree(self) -> Path:
        return self.folder / "modules/v3/payloads/0000/tree"

    # What happens to a device

    def begin(self, deployment: str, artifact: str = "release-2") -> None:
        """The server's answer was taken: the log is there, then the state."""
        self.id = deployment
        self._begun += 1
        self._rotate()
        if self.generation == "cpp":
            self.log(f"Deployment with ID {deployment} started.")
        else:
            self.log("Running Mender client version: 3.4.0")
            self.log("State transition: update-fetch [Download_Enter] -> update-store [Download_Enter]")
            self.log(f"Validating the Update Info: {URI} [name: {artifact}; devices: [test]]")
        self.phase("update-store" if self.generation == "cpp" else "update-fetch", artifact)

    def phase(self, name: str, artifact: str = "release-2", **info: Any) -> None:
        """The store has the next state."""
        state = {
            "Version": 2,
            "Name": name,
            "UpdateInfo": {
                "ID": self.id,
                "Artifact": {
                    "artifact_name": artifact,
                    "PayloadTypes": ["test-module"],
                    "Source": {"URI": URI, "Expire": ""},
                },
                "RebootRequested": [""],
                "SupportsRollback": "rollback-supported",
                **info,
            },
        }
        with self._store() as put:
            put("state", json.dumps(state))

    def end(self, *, success: bool, artifact: str = "", failed_in: str = "update-install") -> None:
        """It is over. *artifact* is what is installed then, if it is another."""
        if self.generation == "go" and not success and failed_in:
            self.log(f"State transition: {failed_in} [ArtifactInstall] -> rollback [ArtifactRollback]")
            self.log("State transition: rollback [ArtifactRollback] -> update-error [ArtifactFailure]")
            self.log("State transition: update-error [ArtifactFailure] -> cleanup [Error]")
        with self._store() as put:
            if artifact:
                put("artifact-name", artifact)
            if self.generation == "cpp":
                put("state", None)
        if self.generation == "cpp":
            self.log(
                f"Deployment with ID {self.id} finished with status: {'Success' if success else 'Failure'}"
            )
        else:
            kind = "none" if success else "Error"
            self.log(f"State transition: cleanup [{kind}] -> update-status-report [none]")
            self.phase("update-status-report", artifact or "release-2")
            with self._store() as put:
                put("state", None)

    def standalone(self, artifact: str | None, **more: Any) -> None:
        """An installed artifact waits for its commit; None: no more."""
        value = {"Version": 2, "ArtifactName": artifact, "PayloadTypes": ["test-module"], **more}
        with self._store() as put:
            put("standalone-state", json.dumps(value) if artifact else None)

    def installed(self, artifact: str) -> None:
        with self._store() as put:
            put("artifact-name", artifact)

    def plant_tree(self, artifact: str) -> None:
        """Somebody's ``mender install`` has read the header: a work tree, and the process itself."""
        code = ["-c", "import signal; signal.pause()", "install", "release.mender"]
        self._installer = executed([PROGRAM, *code], executable=sys.executable)
        (self.tree / "header").mkdir(parents=True)
        (self.tree / "header/artifact_name").write_text(artifact)
        (self.tree / "header/payload_type").write_text("test-module")
        (self.tree / "version").write_text("3\n")

    def remove_tree(self) -> None:
        """The install, commit or rollback is over."""
        self.kill()
        shutil.rmtree(self.tree)

    def kill(self) -> None:
        """The client by hand is gone."""
        if self._installer is not None:
            self._installer.kill()
            self._installer.wait()
            self._installer = None

    def log(self, message: str, level: str = "info") -> None:
        """A line of the deployment's log."""
        moment = _BEGAN + timedelta(seconds=max(self._begun - 1, 0))
        stamp = f"{moment:%Y-%m-%dT%H:%M:%S}{'.123456Z' if self.generation == 'cpp' else 'Z'}"
        line = {"level": level, "message": message, "timestamp": stamp}
        with self._log(0, self.id).open("a") as file:
            file.write(json.dumps(line) + "\n")

    # How it is written

    def _log(self, age: int, deployment: str) -> Path:
        return self.logs / f"deployments.{_NUMBER[self.generation] + age:04}.{deployment}.log"

    def _rotate(self) -> None:
        """
        The logs get the next number, that of another deployment before this one, too; five are kept.

        The newest one is used again for the same deployment.
        """
        if self._log(0, self.id).exists():
            return
        for file in sorted(self.logs.glob("deployments.*.log"), reverse=True):
            _, number, deployment, _ = file.name.split(".")
            age = int(number) - _NUMBER[self.generation] + 1
            if age >= _KEPT:
                file.unlink()
            else:
                file.rename(self._log(age, deployment))

    @contextmanager
    def _store(self) -> Iterator[Callable[[str, str | None], None]]:
        """A transaction."""
        path = str(self.folder / "mender-store")
        environment = lmdb.open(path, subdir=False, map_size=1 << 24, metasync=False, sync=False)
        try:
            with environment.begin(write=True) as transaction:

                def put(key: str, value: str | None) -> None:
                    if value is None:
                        transaction.delete(key.encode())
                    else:
                        transaction.put(key.encode(), value.encode())

                yield put
        finally:
            environment.close()
