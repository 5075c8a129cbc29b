"""
The scan process: reads the file system for the watcher, which stays small and answers meanwhile.

Its standard input is one line of JSON, its standard output a line for each thing that it found, and a last
one with a summary. It ends when the other end of its input or output is closed. It runs at idle priority
unless it is told otherwise, and imports little: it is started for a single file, too.

    {"do": "setuid", "walks": ["/"], "stop": ["/proc"], "exclude": "", "bits": 3072, "caps": true}
        ["/usr/bin/su", 2541, 0, 0, "cap_setuid=ep", "sha256", 71912, 1] ... {"files": 1, ...}
    {"do": "hash", "files": ["/usr/bin/su"], "rate": 20971520}
        ["/usr/bin/su", "", "sha256", "link target", inode, device, mode, uid, gid, size, mtime, ctime] ... {}
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress


def _at_idle_priority() -> None:
    """
    Run when nothing else wants to, and read when nothing else does.

    sched(7): SCHED_IDLE; a process of that policy has the idle class of I/O, too (ioprio_set(2)).
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        with suppress(OSError):
            os.nice(19)


def main() -> int:
    """The program: one request."""
    request = json.loads(sys.stdin.readline())
    if request.pop("idle", True):
        _at_idle_priority()
    # This file is compiled at each start; what does the work is not.
    try:
        if request.pop("do") == "setuid":
            from mender_monitor_py.setuidscan import SetuidScan

            SetuidScan(**request).run()
        else:
            from mender_monitor_py.filehash import hash_files

            hash_files(**request)
    except BrokenPipeError:
        # Nobody reads: what is left in the buffer must not be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
