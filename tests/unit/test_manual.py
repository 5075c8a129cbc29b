"""The documents say what the code does."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_documents_are_up_to_date():
    """
    Fields, usage lines and settings come from the code; ``scripts/manual`` brings them there.
    """
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts/manual", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
