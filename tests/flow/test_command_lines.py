"""The programs of setup.cfg, as somebody who has just installed them tries them."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mender_monitor_py import __version__

PROJECT = Path(__file__).parents[2]


def entries():
    """The modules of the programs, by the programs' names."""
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    pairs = (line.partition(" = ")[::2] for line in lines)
    return {name: target.removesuffix(":main") for name, target in pairs}


def run(module, *words, before="pass"):
    return subprocess.run(
        [sys.executable, "-c", f"{before}; import sys; from {module} import main; sys.exit(main())", *words],
        cwd=PROJECT,
        env={**os.environ, "MENDER_MONITOR_ROOT": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", sorted(set(entries().values())))
def test_a_program_tells_its_version_and_its_use(module):
    """
    On standard output, with status 0; and of words that mean nothing, that they do, in a few lines.
    """
    version, usage, nonsense = (run(module, word) for word in ("--version", "--help", "--frobnicate"))
    assert (version.returncode, version.stderr, usage.returncode, usage.stderr) == (0, "", 0, "")
    assert __version__ in version.stdout
    assert "usage" in usage.stdout.lower() or "started by" in usage.stdout
    assert (nonsense.returncode, nonsense.stdout) == (2, "")
    assert nonsense.stderr and "Traceback" not in nonsense.stderr


def test_the_receiver_says_what_it_needs():
    """pip installs the monitor without it."""
    done = run("mender_monitor_py.receiver", before="import sys; sys.modules['aiohttp'] = None")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mender-monitor-receiver: aiohttp is missing")
