"""
Runs in the virtual machine of :mod:`tests.system.vm`: scripts that arrive on a port, one JSON line each.

    {"script": "ip link", "seconds": 60}      {"status": 0, "output": "..."}

Standard library only, and one file: the image of the machine has a copy of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile

TIMED_OUT = 124  # as timeout(1) has it
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def run(script: str, seconds: float) -> dict[str, object]:
    """
    What became of *script*. What it leaves running in the background goes on.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = TIMED_OUT
        output.seek(0)
        return {"status": status, "output": output.read().decode("utf-8", "backslashreplace")}


def main() -> None:
    with open(sys.argv[1], "r+b", buffering=0) as port:  # noqa: PTH123 - a device, both ways
        answer: dict[str, object] = {"kernel": os.uname().release}
        pending = b""
        while True:
            data = json.dumps(answer).encode() + b"\n"
            while data:
                data = data[port.write(data) :]
            while b"\n" not in pending:
                pending += port.read(65_536) or b""
            line, _, pending = pending.partition(b"\n")
            answer = run(**json.loads(line))


if __name__ == "__main__":
    main()
