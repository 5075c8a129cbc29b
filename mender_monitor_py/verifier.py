"""
The verifying process: checks signatures for the watcher, which never loads the library for it.

Its standard input is a line of JSON and the signed bytes behind it, its standard output one line of JSON.

    {"keys": {"release.pem": "-----BEGIN…"}, "signed": [["signature in hexadecimal", 312], …]} 312 bytes …
        {"signers": ["release.pem", ""], "problems": {"old.pem": "it is no Ed25519 key"}}
"""

from __future__ import annotations

import json
import sys

from mender_monitor_py.signature import Keys


def main() -> int:
    """The program: one request."""
    request = json.loads(sys.stdin.buffer.readline())
    keys = Keys({name: text.encode() for name, text in request["keys"].items()})
    signers = [
        keys.signer(bytes.fromhex(signature), sys.stdin.buffer.read(size))
        for signature, size in request["signed"]
    ]
    print(json.dumps({"signers": signers, "problems": keys.problems}))  # noqa: T201 - this is its answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
