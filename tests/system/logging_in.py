"""
Logs in as a person does: with a terminal, a password or a key. A program of its own, run on a device.

    logging_in.py ssh USER PASSWORD|- [OPTION...]       "-": with the key /root/key
    logging_in.py type USER COMMAND [PROMPT ANSWER]...  COMMAND by sh as USER, on a terminal of its own

It prints what it was told.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "NumberOfPasswordPrompts=1")


def ssh(user: str, password: str, *options: str) -> None:
    """An ssh login on this device; of equal *options* the first counts."""
    means = "publickey" if password == "-" else "password"
    wanted = (*options, *OPTIONS, f"PreferredAuthentications={means}", "IdentitiesOnly=yes")
    arguments = [word for option in wanted for word in ("-o", option)]
    ask = Path(f"/run/ask-{os.getpid()}")
    ask.write_text(f"#!/bin/sh\necho '{password}'\n")
    ask.chmod(0o700)
    subprocess.run(
        ["ssh", *arguments, "-i", "/root/key", "-l", user, "127.0.0.1", "true"],
        env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    ask.unlink()


def typed(user: str, command: str, *talk: str) -> None:
    """Run *command* on a terminal; type each answer once its prompt has come. An empty one: go away."""
    as_user = [] if user == "root" else ["runuser", f"--user={user}", "--"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir("/")
        arguments = [*as_user, "/bin/sh", "-c", command]
        os.execvp(arguments[0], arguments)
    waiting = list(zip(talk[::2], talk[1::2], strict=True))
    said = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has the terminal open; login(1) hangs it up first, see vhangup(2)
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.02)
            continue
        said += data
        if waiting and waiting[0][0].encode() in said:
            answer = waiting.pop(0)[1]
            if not answer:
                os.close(terminal)
                os.waitpid(pid, 0)
                return
            os.write(terminal, answer.encode() + b"\n")
            said = b""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    {"ssh": ssh, "type": typed}[sys.argv[1]](*sys.argv[2:])
