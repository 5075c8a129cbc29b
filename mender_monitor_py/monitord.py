"""The program ``mender-monitord``: the daemon, started without what it never needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the daemon."""
    # The watcher speaks no TLS. asyncio takes ssl if it is there and works without it; it is 4 MiB of memory.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    from mender_monitor_py import daemon

    daemon.main()


if __name__ == "__main__":
    main()
