"""Which script an interpreter runs, and that no secret of a command line is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py import commandline
from mender_monitor_py.commandline import is_interpreter, printable, shown

arguments = st.lists(
    st.text(max_size=20) | st.text(st.sampled_from("-_.=:/@ apswordtokenT'\";&\udcff\n"), max_size=60),
    max_size=6,
)


@pytest.mark.parametrize(
    ("line", "script"),
    [
        ("python3 -u /opt/x.py a", "/opt/x.py"),
        ("python3 -c x", "-c"),
        ("python3 -Ic x", "-c"),
        ("python3 -W ignore -m http.server 80", "-m http.server"),
        ("python3 -mhttp.server", "-m http.server"),
        ("python3 -", ""),
        ("python3", ""),
        ("python3.11 ./../a//b.py", "/w/a/b.py"),
        ("bash -ec ls", "-c"),
        ("bash -o pipefail ../y", "/w/y"),
        ("bash --norc x", "/w/d/x"),
        ("sh -- -x", "/w/d/-x"),
        ("dash +x s", "/w/d/s"),
        ("perl -ne p f", "-e"),
        ("perl -I /lib s.pl", "/w/d/s.pl"),
        ("node --eval x", "-e"),
        ("node s.js", "/w/d/s.js"),
        ("awk {print} f", "-e"),
        ("gawk -f s.awk f", "/w/d/s.awk"),
        ("php -f s.php", "/w/d/s.php"),
        ("java -cp a Main", "Main"),
        ("java -jar a.jar", "/w/d/a.jar"),
        ("/bin/busybox sh /x", "sh /x"),
        ("/bin/busybox", ""),
    ],
)
def test_the_script_of_an_interpreter(line, script):
    words = line.split()
    assert commandline.script(f"/usr/bin/{words[0]}", words, "/w/d") == script


def test_busybox_is_named_by_the_applet_it_was_called_as():
    assert commandline.script("/bin/busybox", ["/sbin/udhcpc", "-i"], "/") == "udhcpc"
    assert commandline.script("/bin/busybox", ["-sh"], "/") == "-sh"
    assert commandline.script("/bin/busybox", ["ash", "-c", "x"], "/") == "ash -c"


def test_interpreters_are_known_by_name():
    yes = ["/bin/sh", "/usr/bin/python3.11", "/usr/bin/perl", "/opt/node", "/bin/busybox", "/usr/bin/lua5.4"]
    no = ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/python3-config", "/bin/ls", ""]
    assert [path for path in [*yes, *no] if is_interpreter(path)] == yes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["mysql", "--password=s3cret x", "-u", "r"], "mysql --password=*** -u r"),
        (["x", "--token", "s3cret", "z"], "x --token *** z"),
        (["x", "-token", "s3cret"], "x -token ***"),
        (["x", "--api-key:s3cret"], "x --api-key:***"),
        (["curl", "https://u:s3cret@h/x"], "curl https://u:***@h/x"),
        (["curl", "-H", "Authorization: Bearer s3cret"], "curl -H Authorization: Bearer ***"),
        (["env", "DB_PASSWORD=s3cret"], "env DB_PASSWORD=***"),
        (["x", "--db_passwd.main=s3cret"], "x --db_passwd.main=***"),
        (["sh", "-c", "x; API_KEY=s3cret y --password=s3cret"], "sh -c x; API_KEY=*** y --password=***"),
        (["sh", "-c", "y --password s3cret -v"], "sh -c y --password *** -v"),
        (["sh", "-c", "y --password='s3cret x' -v"], "sh -c y --password=*** -v"),
        (["sh", "-c", 'DB_PASSWORD="s3cret \\" s3cret" y'], "sh -c DB_PASSWORD=***"),
        (["sh", "-c", 'x; TOKEN="s3cret x"s3cret y'], "sh -c x; TOKEN=*** y"),
        (["sh", "-c", 'x; TOKEN="; evil'], 'sh -c x; TOKEN="; evil'),
        (["sh", "-c", "--token s3cret y"], "sh -c --token *** y"),
        (["x", "--pass", "-v"], "x --pass -v"),
        (["ls", "--author=me", "tokens", "keys"], "ls --author=me tokens keys"),
    ],
)
def test_secrets_are_masked(line, expected):
    assert shown(line) == expected


@given(arguments)
def test_what_is_shown_is_bounded_and_printable(line):
    text = shown(line, 100)
    assert text.isprintable()
    assert len(text) <= 100 + len(" … (cut)")


@given(st.text(st.sampled_from("a_-./="), min_size=2000, max_size=4000))
def test_no_argument_takes_long(text):
    """Nested repetitions would take for ever on such text."""
    shown([text])


@given(st.sampled_from(["python3", "sh", "perl", "node", "php", "awk", "java", "busybox", "ruby"]), arguments)
def test_any_command_line_has_an_answer(interpreter, line):
    found = commandline.script(f"/bin/{interpreter}", [interpreter, *line], "/w")
    assert isinstance(found, str)


@given(st.text(max_size=50))
def test_printable(text):
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
