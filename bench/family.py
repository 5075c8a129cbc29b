"""
What a process has used so far, and apart from it what it started, by name.

    python -m bench.family PID

prints it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from bench.support import Cost, cost

NOTHING = Cost(0.0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Family:
    """*ended* is the CPU time, in seconds, of what it started and that is over, to 0.01 s."""

    itself: Cost
    started: dict[str, Cost]
    ended: float

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> Self:
        started: dict[str, Cost] = {}
        for child in _below(pid, proc):
            try:
                name, spent = _name(proc / str(child)), cost(child, proc)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            started[name] = started.get(name, NOTHING) + spent
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime: proc(5)
        return cls(cost(pid, proc), started, ended)

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        started = {name: Cost(**spent) for name, spent in values["started"].items()}
        return cls(Cost(**values["itself"]), started, values["ended"])

    def since(self, before: Self) -> Self:
        started = {
            name: spent.since(before.started.get(name, NOTHING)) for name, spent in self.started.items()
        }
        return type(self)(self.itself.since(before.itself), started, self.ended - before.ended)


def _below(pid: int, proc: Path) -> list[int]:
    """All that *pid* started, and these."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for file in proc.glob(f"{waiting.pop()}/task/*/children"):
            try:
                children = [*map(int, file.read_text().split())]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found += children
            waiting += children
    return found


def _name(folder: Path) -> str:
    """The program, or the script that it runs: ``postman.py``."""
    words = (folder / "cmdline").read_text(errors="replace").split("\0")
    return Path(next((word for word in words if word.endswith(".py")), words[0])).name


if __name__ == "__main__":
    print(json.dumps(asdict(Family.of(int(sys.argv[1])))))
