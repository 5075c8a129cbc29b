"""The files of an artifact, read in a process of their own: all that is in them, in little memory."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

MOST_KIB = 64 * 1024


def test_the_payload_is_read_with_all_in_it(tmp_path: Path) -> None:
    """
    A file, and a compressed archive with a set-uid program in it; the file may be gone by then.
    """
    (tmp_path / "tool").write_bytes(b"tool")
    (tmp_path / "tool").chmod(0o4755)
    subprocess.run(
        ["tar", "-C", tmp_path, "-czf", tmp_path / "a.tar.gz", "tool"], check=True, capture_output=True
    )
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        # No file is called so, and the answer would be no line.
        archive.addfile(tarfile.TarInfo("x" * 300_000))
        archive.addfile(tarfile.TarInfo("behind"))
    (tmp_path / "plain").write_bytes(b"plain")
    files = [[str(tmp_path / name), name] for name in ("a.tar.gz", "long.tar", "plain", "none")]
    done = subprocess.run(
        [sys.executable, "-m", "mender_monitor_py.payload"],
        input=json.dumps({"files": files}).encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    found = {name: (sha256, mode) for sha256, name, mode in map(json.loads, done.stdout.splitlines())}
    assert found["tool"] == (hashlib.sha256(b"tool").hexdigest(), 0o4755)
    assert found["plain"][0] == hashlib.sha256(b"plain").hexdigest()
    assert set(found) == {"a.tar.gz", "tool", "long.tar", "behind", "plain"}


def test_what_grows_when_it_is_unpacked_is_read_in_little_memory(tmp_path: Path) -> None:
    """
    A few KiB of each format may be a hundred MiB of zeros, and the watcher's service has 96 MiB in all.
    """
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as archive:
        for name, size in (("zeros", 100 << 20), ("behind", 0)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    data = plain.read_bytes()
    (tmp_path / "gz").write_bytes(gzip.compress(data, 1))
    (tmp_path / "bz2").write_bytes(bz2.compress(data, 1))
    (tmp_path / "xz").write_bytes(lzma.compress(data, preset=1))
    (tmp_path / "lzma").write_bytes(lzma.compress(data, format=lzma.FORMAT_ALONE))
    (tmp_path / "damaged").write_bytes(gzip.compress(data, 1)[:1000] + b"x" * 1000)
    names = ("gz", "bz2", "xz", "lzma", "damaged", "plain.tar")
    request = json.dumps({"files": [[str(tmp_path / name), name] for name in names]})
    found, most = _read(request)
    assert [name for name in found if name in names] == list(names)
    assert found.count("zeros") >= 5 and found.count("behind") == 5
    assert most < MOST_KIB


def test_a_payload_with_an_endless_header_is_read_in_little_memory(tmp_path: Path) -> None:
    """
    A small file may say that a header of gigabytes comes: the archive ends there, the files behind it count.
    """
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(tmp_path / "bomb", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(1 << 9):
            file.write(bytes(1 << 20))
    (tmp_path / "plain").write_bytes(b"plain")
    request = json.dumps({"files": [[str(tmp_path / name), name] for name in ("bomb", "plain")]})
    names, most = _read(request)
    assert names == ["bomb", "plain"]
    assert most < MOST_KIB


def _read(request: str) -> tuple[list[str], int]:
    """The names that are told, and the most memory that the reading took, in KiB; see proc(5), VmHWM."""
    peak = "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    done = subprocess.run(
        [sys.executable, "-c", f"from mender_monitor_py import payload; payload.main(); {peak}"],
        input=request.encode() + b"\n",
        stdout=subprocess.PIPE,
        check=True,
    )
    *lines, most = done.stdout.splitlines()
    return [json.loads(line)[1] for line in lines], int(most)
