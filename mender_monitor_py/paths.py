"""Every path of the product, under one movable root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "MENDER_MONITOR_ROOT"
# By these the update client's own trees are moved (clients 4 and 5: src/common/conf/paths).
CONF_VARIABLE, STORE_VARIABLE = "MENDER_CONF_DIR", "MENDER_DATASTORE_DIR"


@dataclass(frozen=True)
class Paths:
    """
    The paths under *root*; ``/`` on a device, a folder in the demo and the tests.

    Watched files and commands of the checks are the device's own and are not moved. *client_conf* and
    *client_store* are the update client's folders where they are not the usual ones.
    """

    root: Path = Path("/")
    client_conf: Path | None = None
    client_store: Path | None = None

    @classmethod
    def from_environment(cls) -> Paths:
        """
        The root that ``MENDER_MONITOR_ROOT`` names, else ``/``.

        The update client's folders are those of its own ``MENDER_CONF_DIR`` and ``MENDER_DATASTORE_DIR``.
        """
        root, conf, store = (os.environ.get(name) for name in (ROOT_VARIABLE, CONF_VARIABLE, STORE_VARIABLE))
        return cls(Path(root or "/").absolute(), Path(conf) if conf else None, Path(store) if store else None)

    @property
    def etc(self) -> Path:
        return self.root / "etc/mender-monitor"

    @property
    def overrides(self) -> Path:
        """The user's settings, read over the shipped ones."""
        return self.etc / "monitor.conf"

    @property
    def monitor_d(self) -> Path:
        return self.etc / "monitor.d"

    @property
    def baseline_d(self) -> Path:
        """What the checks expect, a list each: made for review and version control."""
        return self.etc / "baseline.d"

    @property
    def trusted_d(self) -> Path:
        """Public keys: with one in there a list of expected things counts only when it is signed."""
        return self.etc / "trusted.d"

    def checks(self, directory: str) -> Path:
        """The folder of the checks: *directory*, as MONITOR_D_DIRECTORY has it, or the usual one."""
        return self.root / directory.lstrip("/") if directory else self.monitor_d

    @property
    def share(self) -> Path:
        return self.root / "usr/share/mender-monitor"

    @property
    def config(self) -> Path:
        """The shipped settings."""
        return self.share / "config/config.sh"

    @property
    def state(self) -> Path:
        """May be a link to a data partition; it is followed, never replaced."""
        return self.root / "var/lib/mender-monitor"

    @property
    def outbox(self) -> Path:
        return self.state / "outbox.db"

    @property
    def deployment_spool(self) -> Path:
        """Where the state scripts of deployments leave what they saw, whichever slot they run on."""
        return self.state / "deployment.d"

    @property
    def trusted(self) -> Path:
        """The signed lists that were trusted last."""
        return self.state / "trusted"

    @property
    def run(self) -> Path:
        return self.root / "run/mender-monitor"

    @property
    def status(self) -> Path:
        """What the running daemon says of its checks; JSON, on a memory file system."""
        return self.run / "status.json"

    @property
    def inventory(self) -> Path:
        """What the update client's inventory has of the monitor, on a memory file system."""
        return self.run / "inventory"

    @property
    def pid_file(self) -> Path:
        return self.root / "var/run/monitoring-client.pid"

    @property
    def sender_socket(self) -> Path:
        """Where the sender's unit listens; without it the daemon starts a sender itself."""
        return self.run / "sender.sock"

    @property
    def runner_socket(self) -> Path:
        """Where the unit of the runner of commands listens; without it the daemon starts a runner itself."""
        return self.run / "runner.sock"

    @property
    def mender_conf(self) -> Path:
        return (self.client_conf or self.root / "etc/mender") / "mender.conf"

    @property
    def mender(self) -> Path:
        """The update client's own state; a link to the data partition as a rule, and it may dangle."""
        return self.client_store or self.root / "var/lib/mender"

    @property
    def mender_fallback_conf(self) -> Path:
        return self.mender / "mender.conf"
