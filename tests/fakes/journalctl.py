#!/usr/bin/python3
"""
In the place of journalctl(1): shows the entries in the file FAKE_JOURNAL, a line of JSON each.

Of its options it knows those that the journal's reader gives. --follow is of one boot, as with the real one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    options = dict(word.partition("=")[::2] for word in sys.argv[1:] if word != "+")
    file = Path(os.environ["FAKE_JOURNAL"])
    boot = options.get("--boot") or options.get("_BOOT_ID", "")
    if "--lines" in options:
        entries = [line for line in file.read_text().splitlines() if boot in line]
        print("\n".join(entries[-1:]), flush=True)
        return
    after = number(options["--cursor"]) if "--cursor" in options else 0
    given = 0
    while True:
        # One that has gone from the journal: the next one is the first.
        whole, _, _ = file.read_text().rpartition("\n")  # it may be written just now
        lines = [line for line in whole.splitlines() if line]
        for line in lines:
            here = number(json.loads(line)["__CURSOR"])
            if here >= after and here > given and boot in line:
                given = here
                print(line, flush=True)
        if "--follow" not in options:
            return
        time.sleep(0.02)


def number(cursor: str) -> int:
    return int(cursor.partition("i=")[2].partition(";")[0])


if __name__ == "__main__":
    main()
