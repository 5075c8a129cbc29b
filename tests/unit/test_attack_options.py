"""What the attack demo refuses, on machines of the tests' own."""

import pytest

from tests.system.attack_options import read
from tests.system.offences import OFFENCES

DEVICE = "etc/mender/mender.conf"


def made(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_a_container_is_attacked_where_nothing_looks_like_production(tmp_path):
    wanted = read([], tmp_path)
    assert (wanted.here, tuple(wanted.offences), wanted.twin) == (False, OFFENCES, True)


def test_this_machine_is_attacked_when_that_is_said_twice(tmp_path):
    wanted = read(["--here", "--yes", "ports", "wifi"], made(tmp_path, DEVICE))
    assert (wanted.here, [one.subsystem for one in wanted.offences]) == (True, ["ports"])


@pytest.mark.parametrize(
    ("words", "files", "reason"),
    [
        (["--here"], [], "--here and --yes go together: they attack this machine"),
        (["--yes"], [], "--here and --yes go together"),
        (
            ["--here"],
            [DEVICE],
            "; this machine looks like one in production: it has an update client: /etc/mender/mender.conf",
        ),
        ([], [DEVICE], "this machine looks like one in production: it has an update client"),
        ([], ["var/lib/mender/mender.conf"], "it has an update client: /var/lib/mender/mender.conf"),
        (
            [],
            ["etc/mender-monitor/monitor.d/enabled/ports_external.sh"],
            "it has a monitor: /etc/mender-monitor",
        ),
    ],
)
def test_it_is_refused(tmp_path, words, files, reason):
    with pytest.raises(SystemExit) as raised:
        read(words, made(tmp_path, *files))
    assert reason in str(raised.value.code)


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["prots"], "nothing attacks prots"), (["--here", "--yes", "wifi"], "in a virtual machine only")],
)
def test_what_nothing_attacks(tmp_path, capsys, words, reason):
    with pytest.raises(SystemExit) as raised:
        read(words, tmp_path)
    assert raised.value.code == 2
    assert reason in capsys.readouterr().err
