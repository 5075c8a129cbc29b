"""Init scripts, as the Linux Standard Base describes them, and the init that runs them."""

from __future__ import annotations

import re
from pathlib import Path

from mender_monitor_py.errors import UnknownError
from mender_monitor_py.host.runner import Runner

SCRIPTS = Path("/etc/init.d")

_STATUS_S = 10.0
_DEAD = {
    1: "it is dead, and its pid file is there",
    2: "it is dead, and its lock file is there",
    3: "it is not running",
}


async def stopped_because(runner: Runner, script: Path) -> str:
    """
    Why the service of an init script is not running, by its ``status`` action; empty: it is running.

    Raises UnknownError when the script does not say.
    """
    if not _exists(script):
        return f"there is no init script {script}"
    completed = await runner.run([str(script), "status"], timeout=_STATUS_S)
    if completed.status is None:
        raise UnknownError(f"{script} status did not end within {_STATUS_S:g} s, or printed too much")
    if completed.status == 0:
        return ""
    reason = _DEAD.get(completed.status)
    # 2 and 3 are also what a script returns for an action that it does not have, and 1 is what many do
    if reason is None or re.search(rb"\busage:", completed.output, re.IGNORECASE):
        raise UnknownError(f"{script} status exited with {completed.status}, which tells nothing")
    return f"{script} says that {reason}"


def _exists(script: Path) -> bool:
    return script.exists()


def shutting_down(proc: Path = Path("/proc")) -> bool:
    """Whether SysV init halts or reboots: it shows its runlevel in its own command line (init(8))."""
    try:
        command = (proc / "1/cmdline").read_bytes()
    except OSError:
        return False
    return bool(re.search(rb"init \[[06]\]", command))


def is_systemd(run: Path = Path("/run")) -> bool:
    """Whether systemd is the init system; sd_booted(3)."""
    return (run / "systemd/system").is_dir()
