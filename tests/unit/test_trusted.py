"""Links: whose name for a file is to be believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mender_monitor_py.host.trusted import real_path


@pytest.fixture
def place(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "share/x.py").touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "target", ["../share/x.py", "{place}/share/x.py", "{place}/./bin/../share//x.py", "middle"]
)
def test_a_link_counts_as_what_it_leads_to(place, target):
    (place / "bin/middle").symlink_to("../share/x.py")
    link = place / "bin/x"
    link.symlink_to(target.format(place=place))
    assert real_path(str(link)) == f"{place}/share/x.py"


def test_a_link_on_the_way(place):
    (place / "current").symlink_to("share")
    assert real_path(f"{place}/current/x.py") == f"{place}/share/x.py"


def test_a_path_without_links_is_itself(place):
    assert real_path(f"{place}/share/x.py") == f"{place}/share/x.py"
    assert real_path("/") == "/"


def test_what_leads_nowhere_keeps_its_name(place):
    (place / "bin/x").symlink_to("gone")
    (place / "bin/y").symlink_to("y")
    assert real_path(f"{place}/bin/x") == f"{place}/bin/x"
    assert real_path(f"{place}/bin/y") == f"{place}/bin/y"


@pytest.mark.parametrize("folder", [".", "bin"])
def test_a_link_that_others_can_replace_is_no_name_for_another_file(place, folder):
    link = place / "bin/x"
    link.symlink_to("../share/x.py")
    (place / folder).chmod(0o777)
    assert real_path(str(link)) == str(link)
    (place / folder).chmod(0o1777)  # as /tmp: only its owner can
    assert real_path(str(link)) == f"{place}/share/x.py"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_of_another_user(place):
    link = place / "bin/x"
    link.symlink_to("../share/x.py")
    os.chown(link, 1000, 1000, follow_symlinks=False)
    assert real_path(str(link)) == str(link)


def test_links_of_proc_mean_something_else_to_each_process():
    with Path("/dev/null").open() as file:
        path = f"/dev/fd/{file.fileno()}"
        assert real_path(path) == path
    assert real_path("/proc/self/exe") == "/proc/self/exe"
