"""Artifacts for Debian's update client on a device, and a module that fails where it is told to."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.system.product import write

TYPE = "test-module"
MODULE = f"/usr/share/mender/modules/v3/{TYPE}"
# The meta-data of an artifact say its part: "fail" names states, "wait" one that waits for /run/wait to go.
_MODULE = r"""#!/bin/sh
asked() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' header/meta-data; }
case $1 in
    SupportsRollback) asked rollback; exit ;;
    NeedsArtifactReboot) asked reboot; exit ;;
    ProvidePayloadFileSizes | SupportsAugmentedArtifacts) exit ;;
esac
if [ "$(asked wait)" = "$1" ]; then
    : >/run/waiting
    while [ -e /run/wait ]; do sleep 0.1; done
fi
case " $(asked fail) " in
    *" $1 "*) echo "the module fails in $1, as it was told to" >&2; exit 1 ;;
esac
exit 0
"""
SETTINGS = {
    "UpdatePollIntervalSeconds": 1,
    "InventoryPollIntervalSeconds": 3600,
    "RetryPollIntervalSeconds": 1,
    "StateScriptRetryTimeoutSeconds": 2,
    "StateScriptRetryIntervalSeconds": 1,
}


def prepare_client(root: Path, url: str) -> None:
    """The update client on *root* asks often, and has the module. It needs its version file for scripts."""
    write(root / "etc/mender/mender.conf", json.dumps({"ServerURL": url, **SETTINGS}))
    write(root / MODULE.lstrip("/"), _MODULE)
    (root / MODULE.lstrip("/")).chmod(0o755)


def artifact(
    root: Path,
    folder: Path,
    name: str,
    meta: Mapping[str, str] = {},
    scripts: Sequence[tuple[str, str]] = (),
) -> Path:
    """
    An artifact *name* in *folder*, made by the tool on *root*.

    *meta* is for the module; *scripts* are names and texts of state scripts.
    """
    work = root / "root/artifact"
    shutil.rmtree(work, ignore_errors=True)
    write(work / "meta", json.dumps({"rollback": "Yes", "reboot": "No", **meta}))
    write(work / "payload", f"this is {name}\n")
    command = ["mender-artifact", "write", "module-image", "-T", TYPE, "-n", name, "-t", "test"]
    command += ["-f", "/root/artifact/payload", "-m", "/root/artifact/meta", "-o", "/root/artifact/out"]
    for script, text in scripts:
        write(work / script, text)
        (work / script).chmod(0o755)
        command += ["-s", f"/root/artifact/{script}"]
    subprocess.run(["chroot", root, *command], check=True, stdout=subprocess.DEVNULL)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(work / "out", folder / f"{name}.mender"))
