"""Files with real shell are read by bash; whatever is in them, the program goes on."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from mender_monitor_py.definition import Parsed
from mender_monitor_py.errors import DefinitionError
from mender_monitor_py.host import shell, trusted
from mender_monitor_py.host.shell import ShellFiles
from tests.fakes.executed import ended


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(shell, "TIME_LIMIT", 60.0)  # on a busy machine bash takes long
    return ShellFiles(tmp_path)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "log_x.sh"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def read(files: ShellFiles, path: Path) -> Parsed:
    """By both ways, which must agree."""
    parsed = files.read_now(path)
    assert asyncio.run(files.read(path)) == parsed
    return parsed


def refused(files: ShellFiles, path: Path) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        files.read_now(path)
    return caught.value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=$(echo one)", {"A": "one"}),
        ("if true; then\n A=1\nfi", {"A": "1"}),
        ("f() { B=2; }\nf", {"B": "2"}),
        ("A=1\nexit 3\nB=2", {"A": "1"}),
        ("set -eu\nA=1\nfalse\nB=2", {"A": "1"}),
        ("set -u\nA=$NOT_SET\nB=2", {}),
        ("A=1\nreturn 1", {"A": "1"}),
        ("trap 'echo bye' EXIT\nA=$(echo 1)", {"A": "1"}),
        ("IFS=abc\nset -- x y\nA=1", {"A": "1"}),
        ("A=1\necho output; echo more >&2", {"A": "1"}),
        ("read -r A; B=[$A]", {"A": "", "B": "[]"}),
        ("A=(first second)", {"A": "first"}),
        ("declare -A A; A[k]=v; B=$(echo 1)", {"B": "1"}),
        ("export A=1; readonly B=2; unset NOT; local_=3; :", {"A": "1", "B": "2", "local_": "3"}),
        ("PATH=/nowhere\nA=1", {"A": "1"}),
        ("A=$'a\\nb'\\\n$(echo)\nB=$(printf '\\xff')", {"A": "a\nb", "B": "\udcff"}),
        ("A=[$1$#$HOME$SECRET]", {"A": "[0]"}),
        ("A=\nB=$A\nend==", {"A": "", "B": "", "end": "="}),
        (":", {}),
        ("sleep 100 &\nA=1", {"A": "1"}),
        ("shopt -s extglob; A=$(echo 1); printf() { :; }", {"A": "1"}),
    ],
)
def test_bash_tells_what_the_file_has_set(files, tmp_path, monkeypatch, text, values):
    """
    Functions, exit, set -e, traps, output, arrays: the variables are the file's alone, and all of them.
    """
    monkeypatch.setenv("SECRET", "inherited")
    assert read(files, write(tmp_path, text)).values == values


def test_shell_runs_in_the_folder_of_the_original(files, tmp_path):
    """
    A file may source what lies beside the shell library.
    """
    (tmp_path / "lib.sh").write_text("B=2\n")
    assert read(files, write(tmp_path, ". ./lib.sh\nA=$PWD")).values == {"A": str(tmp_path), "B": "2"}


def test_what_bash_complains_of_is_told(files, tmp_path):
    """
    A command that fails stops nothing; its message is there for who asks.
    """
    parsed = read(files, write(tmp_path, "A=1\nno-such-command\n"))
    assert parsed.values == {"A": "1"}
    assert parsed.lines == {"A": 1}
    assert "line 2: no-such-command" in parsed.complaint


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A=1\nif then\n", 2, "syntax error"),
        ("A=1\nB='open\n", 2, "unexpected EOF"),
        ("A=(1\n", 0, "syntax error|unexpected EOF"),
    ],
)
def test_a_syntax_error_names_its_line(files, tmp_path, text, line, reason):
    """
    The check is refused with bash's own reason.
    """
    path = write(tmp_path, text)
    error = refused(files, path)
    assert error.file == str(path)
    assert error.line == line or not line
    assert any(part in error.reason for part in reason.split("|"))


@pytest.mark.parametrize("text", ["kill -9 $$", "exec true", "set -n\nA=1", "exec 97>&-\nA=$(echo 1)"])
def test_a_file_that_ends_bash_is_refused(files, tmp_path, text):
    """
    No answer is no values.
    """
    assert "bash" in refused(files, write(tmp_path, text)).reason


def test_a_flood_of_output_does_no_harm(files, tmp_path):
    """
    Standard output is nobody's, standard error is kept in part, too many values are refused.
    """
    noisy = "for i in {1..20000}; do echo a long line of output; echo error >&2; done\nA=1"
    parsed = read(files, write(tmp_path, noisy))
    assert parsed.values == {"A": "1", "i": "20000"}
    assert len(parsed.complaint) <= 2048
    large = write(tmp_path, "A=$(printf %2000000s x)")
    os.utime(large, (1_700_000_001, 1_700_000_001))
    assert "1024 KiB" in refused(files, large).reason


def test_a_file_that_closes_its_standard_error_is_waited_for_idly(files, tmp_path):
    """
    The end of one stream is not the end of the file, and no reason to spin.
    """
    path = write(tmp_path, "exec 2>&-\nsleep 0.5\nA=1")
    before = time.process_time()
    assert files.read_now(path).values == {"A": "1"}
    assert time.process_time() - before < 0.3


def test_a_file_without_end_is_given_up_and_its_processes_are_ended(files, tmp_path, monkeypatch):
    """
    The limit holds for bash and what it has started; the file is not tried again until it changes.
    """
    pid = tmp_path / "pid"
    path = write(tmp_path, f"sleep 1000 &\necho $! >{pid}\nwhile :; do :; done")
    for limit in (0.5, 2, 8, 30):  # a busy machine may not get that far
        monkeypatch.setattr(shell, "TIME_LIMIT", limit)
        os.utime(path, (limit, limit))
        assert f"within {limit:g} s" in refused(files, path).reason
        if pid.exists() and pid.read_text():
            break
    ended(int(pid.read_text()))
    monkeypatch.setattr(shell, "TIME_LIMIT", 100)
    assert f"within {limit:g} s" in refused(files, path).reason


def test_a_reading_that_is_cancelled_ends_at_once(files, tmp_path):
    """
    A daemon that stops does not wait for a slow file.
    """
    path = write(tmp_path, f"echo >{tmp_path}/started; while :; do sleep 1; done")

    async def cancel() -> None:
        reading = asyncio.create_task(files.read(path))
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()

    before = time.monotonic()
    asyncio.run(cancel())
    assert time.monotonic() - before < shell.TIME_LIMIT


def test_bash_runs_once_for_a_file_until_it_changes(files, tmp_path):
    """
    What costs a process is kept; a change of the file is seen.
    """
    path = write(tmp_path, f"echo >>{tmp_path}/runs; A=1")
    assert [files.read_now(path).values for _ in range(3)] == [{"A": "1"}] * 3
    assert (tmp_path / "runs").read_text() == "\n"
    path.write_text(f"echo >>{tmp_path}/runs; A=2")
    assert files.read_now(path).values == {"A": "2"}


def test_what_cannot_be_read_is_refused_with_the_reason(files, tmp_path):
    """
    Missing, dangling, a loop, a folder, a named pipe without a writer, too big.
    """
    cases = {
        "missing": "does not exist",
        "dangling": "is a link to /nowhere, which does not exist",
        "loop": "cannot be read: Too many levels of symbolic links",
        "folder": "is not a regular file",
        "pipe": "is not a regular file",
        "big": "is bigger than 64 KiB",
    }
    (tmp_path / "dangling").symlink_to("/nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"#" * (trusted.MAX_SIZE + 1))
    for name, reason in cases.items():
        error = refused(files, tmp_path / name)
        assert (error.file, error.reason) == (str(tmp_path / name), reason)
    (tmp_path / "largest").write_bytes(b"A=1\n" + b"#" * (trusted.MAX_SIZE - 4))
    assert files.read_now(tmp_path / "largest").values == {"A": "1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts others")
def test_root_reads_no_file_that_another_user_can_write(files, tmp_path):
    """
    The file, its folder, a folder above, and the folder of the link to it: each is a way in.
    """
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    path = folder / "log_x.sh"
    path.write_text("A=1\n")
    link = tmp_path / "links" / "log_x.sh"
    link.parent.mkdir()
    link.symlink_to(path)
    assert files.read_now(link).values == {"A": "1"}
    for part, seen_at in ((path, path), (folder, path), (folder.parent, path), (link.parent, link)):
        mode = part.stat().st_mode
        part.chmod(mode | 0o020)
        assert "others than root can write" in refused(files, seen_at).reason
        part.chmod(mode)
        os.chown(part, 65_534, -1)
        assert "belongs to user 65534, not to root" in refused(files, seen_at).reason
        os.chown(part, 0, -1)
    folder.chmod(0o1777)  # as /tmp: nobody can replace what is root's
    assert files.read_now(link).values == {"A": "1"}


def test_no_descriptor_is_left_open(files, tmp_path):
    """
    Whatever the outcome.
    """
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number, text in enumerate(("A=$(echo 1)", "if", "kill -9 $$")):
        path = write(tmp_path, text)
        os.utime(path, (number, number))
        try:
            files.read_now(path)
        except DefinitionError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
