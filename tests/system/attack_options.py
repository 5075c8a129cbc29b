"""
What the attack demo is asked to do, and when it refuses: before anything is installed for it, or attacked.

Needs nothing but Python: run as a program it only looks at its arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.system.offences import EVIL_TWIN, OFFENCES, Offence

CHECKS = "etc/mender-monitor/monitor.d"
SUBSYSTEMS = tuple(dict.fromkeys(offence.subsystem for offence in (*OFFENCES, EVIL_TWIN)))


@dataclass(frozen=True)
class Wanted:
    """Attack this machine (*here*) or one that is made for it, with *offences*, and with the evil *twin*."""

    here: bool
    offences: Sequence[Offence]
    twin: bool


def read(words: Sequence[str] | None = None, root: Path = Path("/")) -> Wanted:
    """What *words*, else the program's arguments, ask for on the machine of *root*; exits when refused."""
    parser = argparse.ArgumentParser(
        prog="scripts/attack-demo",
        description="Attack a test device, a container that is made for it, and see what the monitor tells.",
    )
    parser.add_argument(
        "--here", action="store_true", help="this machine is the test device: attack it, and clean up"
    )
    parser.add_argument("--yes", action="store_true", help="with --here: yes, really")
    parser.add_argument(
        "subsystems", nargs="*", metavar="SUBSYSTEM", help=f"attack these only, of {' '.join(SUBSYSTEMS)}"
    )
    options = parser.parse_args(words)
    subsystems = options.subsystems or SUBSYSTEMS
    offences = [offence for offence in OFFENCES if offence.subsystem in subsystems]
    if unknown := set(subsystems).difference(SUBSYSTEMS):
        parser.error(f"nothing attacks {' '.join(sorted(unknown))}")
    if options.here and not offences:
        parser.error("wifi is attacked in a virtual machine only")
    if reason := _refusal(here=options.here, yes=options.yes, production=_in_production(root)):
        sys.exit(f"scripts/attack-demo: {reason}")
    return Wanted(options.here, offences, EVIL_TWIN.subsystem in subsystems)


def _in_production(root: Path) -> str:
    """Why a machine looks like a device in production; empty: it does not."""
    for path in ("etc/mender/mender.conf", "var/lib/mender/mender.conf"):
        if (root / path).exists():
            return f"it has an update client: /{path}"
    if (root / CHECKS / "enabled").is_dir():
        return "it has a monitor: /etc/mender-monitor"
    return ""


def _refusal(*, here: bool, yes: bool, production: str) -> str:
    looks = f"this machine looks like one in production: {production}"
    if here != yes:
        both = "--here and --yes go together: they attack this machine, and no container"
        return f"{both}; {looks}" if production else both
    if not here and production:
        return f"{looks}; --here --yes attacks it"
    return ""


if __name__ == "__main__":
    read()
