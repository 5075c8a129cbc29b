"""`secure` in folders of the test's own: what it writes, what it leaves alone; all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from mender_monitor_py.catalog import Catalog
from mender_monitor_py.ctl.secure import _users, command, table
from mender_monitor_py.ctl.securing import ENABLE, ENABLED, LEFT_OUT, MISSING, Securing
from mender_monitor_py.errors import CatalogError
from mender_monitor_py.host.stagedfiles import StagedFiles
from mender_monitor_py.model import CheckId
from mender_monitor_py.proposals import Proposal, Setting
from mender_monitor_py.settings import Settings


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()
    for number in range(3):
        (folder / f"tool{number}").write_text(f"tool {number}")
    return folder


@pytest.fixture
def catalog(paths):
    return Catalog(paths, Settings())


@pytest.fixture
def securing(catalog, paths):
    return Securing(catalog, paths)


def integrity(tools: Path) -> Proposal:
    settings = (
        Setting("INTEGRITY_FILES", f"{tools}/*", "tools"),
        Setting("INTEGRITY_INODE", "no", "why not"),
    )
    return Proposal("integrity", "core", "tools", settings, learns=True)


def pid(name: str) -> Proposal:
    return Proposal("pid", name, "restarts", (Setting("PID_EXE", f"/usr/bin/{name}", "it matters"),))


def secured(securing: Securing, *proposals: Proposal) -> list[str]:
    """The states of the steps, which are then done."""
    steps = securing.steps(proposals, learn=True)
    securing.write(steps)
    return [step.state for step in steps]


def tree(paths) -> dict[str, bytes | str]:
    """Every file and link, hidden ones too, with its content or target."""
    found: dict[str, bytes | str] = {}
    for path in sorted(paths.etc.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(paths.etc))] = str(path.readlink())
        elif path.is_file():
            found[str(path.relative_to(paths.etc))] = path.read_bytes()
    return found


def test_checks_with_their_lists_are_written_and_enabled_and_a_second_time_changes_nothing(
    securing, catalog, paths, tools
):
    proposals = (integrity(tools), pid("app"), Proposal("wifi", left_out="no wireless interface"))
    assert secured(securing, *proposals) == [ENABLE, ENABLE, LEFT_OUT]
    assert catalog.enabled() == [CheckId("integrity", "core"), CheckId("pid", "app")]
    assert catalog.load_now(CheckId("integrity", "core")).values["INTEGRITY_INODE"] == "no"
    assert len((paths.baseline_d / "integrity_core.list").read_text().splitlines()) == 3 + 3

    before = tree(paths)
    steps = securing.steps(proposals, learn=True)
    assert not any(step.changes for step in steps)
    securing.write(steps)
    assert tree(paths) == before


def test_what_a_file_says_stays_and_what_it_lacks_is_added(securing, catalog, paths, tools):
    """
    A shipped or a user's file keeps its comments and values; the table shows what will be in force.
    """
    file = paths.monitor_d / "available/integrity_core.sh"
    file.parent.mkdir(parents=True)
    file.write_text(f"# Mine.\nINTEGRITY_FILES={tools}/tool0\n# INTEGRITY_INODE=no")
    (step,) = securing.steps([integrity(tools)], learn=True)
    assert f"INTEGRITY_FILES={tools}/tool0: as its file has it" in table([step])
    assert step.entries == 1
    securing.write([step])
    assert file.read_text() == (
        f"# Mine.\nINTEGRITY_FILES={tools}/tool0\n# INTEGRITY_INODE=no\n"
        '# Chosen by monitorctl secure:\nINTEGRITY_INODE="no"\n'
    )


def test_a_list_that_is_there_stays(securing, paths, tools):
    paths.baseline_d.mkdir(parents=True)
    file = paths.baseline_d / "integrity_core.list"
    file.write_text(f"# reviewed\n* * * * * {tools}/tool0\n")
    before = file.read_bytes()
    (step,) = securing.steps([integrity(tools)], learn=True)
    assert "its list is there already" in table([step])
    securing.write([step])
    assert file.read_bytes() == before


def test_an_enabled_check_gets_the_list_that_it_lacks_and_nothing_else(securing, catalog, paths, tools):
    check = CheckId("integrity", "core")
    catalog.create(check, {"INTEGRITY_FILES": f"{tools}/tool1"})
    catalog.enable(check)
    before = tree(paths)
    assert secured(securing, integrity(tools)) == [ENABLED]
    after = tree(paths)
    assert set(after) - set(before) == {"baseline.d/integrity_core.list"}
    assert f"{tools}/tool1".encode() in after["baseline.d/integrity_core.list"]


def test_a_scenario_that_is_covered_by_a_check_of_the_users_own_gets_no_second_one(securing, catalog, tools):
    own = CheckId("integrity", "mine")
    catalog.create(own, {"INTEGRITY_FILES": f"{tools}/tool1", "INTEGRITY_ALLOW": f"* * * * * {tools}/tool1"})
    catalog.enable(own)
    assert secured(securing, integrity(tools)) == [ENABLED]
    assert catalog.enabled() == [own]
    core = CheckId("integrity", "core")  # both, because the user wants both
    catalog.create(core, {"INTEGRITY_FILES": f"{tools}/tool2"})
    catalog.enable(core)
    steps = securing.steps([integrity(tools)], learn=False)
    assert [step.proposal.check for step in steps] == [core, own]


def test_a_wish_for_a_check_that_is_enabled_is_not_dropped_silently(securing):
    def login(*entries: str) -> Proposal:
        wished = (Setting("LOGIN_ALLOW", ", ".join(entries), "by --allow-login", asked=True),)
        return Proposal("login", "root", "logins as root", wished)

    assert secured(securing, login("sudo admin")) == [ENABLE]
    (same,) = securing.steps([login("sudo admin")], learn=True)
    (other,) = securing.steps([login("sudo admin", "sudo other")], learn=True)
    assert (same.notes, other.changes) == ((), False)
    assert "write LOGIN_ALLOW, as 'sudo admin, sudo other', into" in table([other])


def test_each_process_has_a_check_of_its_own(securing, catalog):
    catalog.create(CheckId("pid", "other"), {"PID_EXE": "/usr/bin/other"})
    catalog.enable(CheckId("pid", "other"))
    assert secured(securing, pid("app")) == [ENABLE]
    assert secured(securing, pid("app"), pid("web")) == [ENABLED, ENABLE]


def test_all_of_a_setting_is_shown_however_long_it_is(securing):
    entries = [f"/usr/bin/program{number} /usr/share/**" for number in range(40)]
    setting = Setting("PROCESS_ALLOW", ", ".join(entries), "they are used")
    shown = table(securing.steps([Proposal("process", "all", "programs", (setting,))], learn=False))
    words = shown.split()
    assert all(entry in " ".join(words) for entry in entries)
    assert "why: they are used" in " ".join(words)
    assert max(map(len, shown.splitlines())) <= 200


def test_a_file_that_cannot_be_used_is_no_reason_to_leave_the_others(securing, catalog, paths, tools):
    file = paths.monitor_d / "available/pid_app.sh"
    file.parent.mkdir(parents=True)
    file.write_text("PID_GRACE=soon\n")
    steps = securing.steps([pid("app"), pid("web")], learn=True)
    assert [step.state for step in steps] == [MISSING, ENABLE]
    assert "PID_GRACE" in table(steps)


def test_an_error_half_way_leaves_nothing_enabled(securing, catalog, paths, tools, monkeypatch):
    """
    The last link cannot be made: no other is there, and no list.
    """
    steps = securing.steps([integrity(tools), pid("app")], learn=True)
    (paths.monitor_d / "enabled/pid_app.sh").mkdir(parents=True)  # what no link can replace
    before = tree(paths)
    with pytest.raises(CatalogError, match="nothing was enabled"):
        securing.write(steps)
    assert tree(paths) == before


@pytest.mark.parametrize("at", range(5))
def test_an_interrupt_while_it_writes_leaves_nothing(securing, paths, tools, monkeypatch, at):
    steps = securing.steps([integrity(tools), pid("app")], learn=True)
    before = tree(paths)
    left = at
    hidden = StagedFiles._hidden

    def interrupted(self, path):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return hidden(self, path)

    monkeypatch.setattr(StagedFiles, "_hidden", interrupted)
    with pytest.raises(KeyboardInterrupt):
        securing.write(steps)
    assert tree(paths) == before


@pytest.mark.parametrize("name", ["admin, ssh root", "a\nb", ""])
def test_a_users_name_cannot_be_an_entry_of_another_kind(name):
    with pytest.raises(click.BadParameter):
        command.main(["--allow-login", name], standalone_mode=False)


def test_a_user_who_is_not_there_is_named(capsys):
    """A slip of the pen would be found by the alert at his first sudo only."""
    assert _users(("root", "nobody-of-that-name")) == ("root", "nobody-of-that-name")
    assert capsys.readouterr().err == (
        "mender-monitorctl: --allow-login: there is no user nobody-of-that-name here now\n"
    )
