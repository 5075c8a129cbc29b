"""The virtual machine that other tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.vm import SHARED, Vm, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


def test_systemd_in_the_initial_namespaces(tmp_path: Path) -> None:
    """
    All units are up, scripts' results come back, one that hangs is ended, and the folder is shared both ways.
    """
    (tmp_path / "question").write_text("here\n")
    with Vm(tmp_path, init="systemd") as vm:
        failed = vm.run("systemctl --failed --plain --no-legend")
        assert vm.run("systemctl is-system-running || true") == "running\n", failed
        # The first process of the initial namespace: a kernel thread's parent.
        assert vm.run("cat /proc/2/comm") == "kthreadd\n"
        assert vm.run(f"cat {SHARED}/question && echo answer >{SHARED}/answer") == "here\n"
        assert (tmp_path / "answer").read_text() == "answer\n"
        refused = vm.attempt("printf '\\377'; echo no >&2; exit 3")
        assert (refused.returncode, refused.stdout) == (3, "\\xffno\n")
        assert vm.attempt("sleep 600", seconds=0.5).returncode == 124
        assert vm.run("sleep 600 & echo goes on") == "goes on\n"
        with pytest.raises(AssertionError, match="exit 1 failed"):
            vm.run("exit 1")
