"""
Who sent a message: an entry of the journal, or a line that syslog wrote.

Pure. Any local process can send any text under any name to /dev/log. journald adds fields of its own, which
begin with an underscore (systemd.journal-fields(7), "trusted"). How far each can be trusted, on Linux:

- ``_UID`` is what the kernel says of the sender (unix(7), SCM_CREDENTIALS): its real user, in the terms of
  the initial user namespace. Nobody but root sends as 0. sudo and su keep their caller's.
- ``_EXE`` and ``_CAP_EFFECTIVE`` are read from /proc/PID when the message is met: they are missing when the
  process was gone by then. ``_EXE`` alone proves little: whoever traces a set-uid program runs it without its
  rights, and can make it say anything. Such a one has no capabilities. In a user namespace of its own it has
  them, but no other ``_UID``.
- ``_COMM`` is the name that a process gives itself (prctl(2), PR_SET_NAME), or that of the link by which it
  was started, and ``SYSLOG_IDENTIFIER`` is text.

So sshd and login count with ``_UID=0`` and their own executable, or none where the process is gone; sudo and
su with their executable and capabilities. Who called them is taken from ``_UID``, not from the text. When
they refuse something they may be gone soon after: that counts without an executable, too, since it is about
its sender alone, who could be refused in earnest. What they allow counts then when the next message of the
process has ``_GID=0``, as that of sudo about its session has.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mender_monitor_py.loginevents import CONSOLE, SSH, SU, SUDO, continuation, is_record

MAX_TEXT = 64 * 1024
HOLD_S = 0.5
_MAX_HELD = 100
FIELDS = (
    "MESSAGE",
    "MESSAGE_ID",
    "SYSLOG_IDENTIFIER",
    "_CAP_EFFECTIVE",
    "_EXE",
    "_GID",
    "_PID",
    "_SYSTEMD_UNIT",
    "_TRANSPORT",
    "_UID",
)

# By the name of the program. Its file may have a suffix: su.shadow, su.util-linux, busybox.suid.
_PROGRAMS = {
    "sshd": SSH,
    "sshd-session": SSH,
    "sshd-auth": SSH,
    "dropbear": SSH,
    "dropbearmulti": SSH,
    "sudo": SUDO,
    "sudo-rs": SUDO,
    "su": SU,
    "login": CONSOLE,
}
_SET_UID = (SUDO, SU)
# <systemd/sd-messages.h>, SD_MESSAGE_JOURNAL_DROPPED: "Suppressed 6000 messages from ssh.service"
_SUPPRESSED = "a596d6fe7bfa4994828e72309e95d61e"
_DRIVER = "driver"  # the transport of journald's own messages, and of nobody else's
_BUSYBOX = "busybox"
# What shadow's login becomes right after its message.
_SHELL = re.compile(r"(?:ba|rba|da|z|k|mk|c|tc|fi|a)?sh\d*")
_DELETED = " (deleted)"

_LINE = re.compile(
    r"(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]*(?:Z|[+-]\d\d:\d\d))"
    # BusyBox's syslogd puts facility and level between host and tag.
    r" \S+ (?:[a-z0-9]+\.[a-z]+ )?(?P<tag>[\w./-]+)(?:\[(?P<pid>\d+)\])?: (?P<text>.*)",
    re.DOTALL | re.ASCII,
)
_REPEATED = re.compile(r"message repeated (\d{1,6}) times: \[ ?(.*)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message of one of the programs that *method* stands for, *times* times.

    *uid* and *gid* are of who sent it, None where nobody knows; *time* is text; *pid* and *unit* may be
    empty.
    *proven*: it is of the program itself. Else it may be another's: that of *uid*.
    """

    method: str
    text: str
    uid: int | None
    time: str
    pid: str
    unit: str
    times: int = 1
    gid: int | None = None
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An entry of the journal. *message* is None when it does not count.

    *forged*: it has the name of one of the programs, but cannot be shown to be of it. *suppressed*: what
    journald says of messages that were too many for it (journald.conf(5), RateLimitBurst).
    """

    cursor: str
    message: Message | None
    forged: bool = False
    suppressed: str = ""


class Records:
    """
    Messages, whole: sudo breaks one that is long into several (syslog_maxlen in sudoers(5)), at any space.

    So what it wrote is known when its process writes something else, or nothing for HOLD_S seconds.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[Message, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._held)

    def take(self, message: Message, now: float) -> list[Message]:
        """The messages that are whole with the next one, *message*, which came at *now*, in seconds."""
        if message.method != SUDO:
            return [message]
        more = continuation(message.text)
        if more is not None:
            if message.pid in self._held:
                first, since = self._held[message.pid]
                self._held[message.pid] = replace(first, text=f"{first.text} {more}"[:MAX_TEXT]), since
            return []
        whole = [self._held.pop(message.pid)[0]] if message.pid in self._held else []
        if message.gid == 0:
            whole = [replace(one, proven=True) for one in whole]
        if not is_record(message.text):
            return [*whole, message]
        if len(self._held) >= _MAX_HELD:
            whole.append(self._held.popitem(last=False)[1][0])
        self._held[message.pid] = message, now
        return whole

    def due(self, now: float) -> list[Message]:
        """Those that nothing continued for HOLD_S."""
        keys = [key for key, (_, since) in self._held.items() if now - since >= HOLD_S]
        return [self._held.pop(key)[0] for key in keys]


def matches(set_uid: Iterable[str]) -> list[str]:
    """
    What journalctl(1) is to show: all that may count. *set_uid* are the paths of sudo and su.

    These may send under any name: it is taken from the name by which they were called.
    """
    syslog = "_TRANSPORT=syslog"
    names = [f"SYSLOG_IDENTIFIER={name}" for name in _PROGRAMS]
    programs = [f"_EXE={path}" for path in set_uid]
    suppressed = [f"_TRANSPORT={_DRIVER}", f"MESSAGE_ID={_SUPPRESSED}"]
    return [*suppressed, "+", syslog, *names, *(["+", syslog, *programs] if programs else [])]


def set_uid_names() -> list[str]:
    """The names of the programs that run for any user."""
    return [name for name, method in _PROGRAMS.items() if method in _SET_UID]


def entry(line: bytes) -> Entry | None:
    """The entry that ``journalctl --output=json`` prints as *line*. None: it is none."""
    try:
        fields = json.loads(line)
        cursor = fields["__CURSOR"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(cursor, str):
        return None
    if fields.get("_TRANSPORT") == _DRIVER:
        return Entry(cursor, None, suppressed=_text(fields.get("MESSAGE"))[:256])
    name = _text(fields.get("SYSLOG_IDENTIFIER"))
    uid = _number(fields.get("_UID"))
    sender = _sender(name, _text(fields.get("_EXE")), uid, fields.get("_CAP_EFFECTIVE"))
    if sender is None:
        return Entry(cursor, None, forged=name in _PROGRAMS)
    method, proven = sender
    text = _text(fields.get("MESSAGE"))[:MAX_TEXT]
    time = _moment(_number(fields.get("__REALTIME_TIMESTAMP")))
    pid, unit = _text(fields.get("_PID"))[:10], _text(fields.get("_SYSTEMD_UNIT"))[:256]
    gid = _number(fields.get("_GID"))
    return Entry(cursor, Message(method, text, uid, time, pid, unit, gid=gid, proven=proven))


def line(data: bytes) -> Message | None:
    """
    The message in a line of a file that syslog wrote. None: it is of another program.

    The name counts in its place alone, behind time and host. Nobody vouches for it.
    """
    found = _LINE.fullmatch(data[:MAX_TEXT].removesuffix(b"\r").decode("utf-8", "surrogateescape"))
    if found is None:
        return None
    method = _PROGRAMS.get(found["tag"])
    if method is None or (method not in _SET_UID and not found["pid"] and method != CONSOLE):
        return None
    text, times = found["text"], 1
    if repeated := _REPEATED.fullmatch(text):  # rsyslog, $RepeatedMsgReduction
        times, text = int(repeated[1]), repeated[2]
    return Message(method, text, None, found["time"], found["pid"] or "", "", times)


def _sender(name: str, executable: str, uid: int | None, capabilities: Any) -> tuple[str, bool] | None:
    """
    The method whose program sent a message, and whether that is proven. None: it was another program.
    """
    named = _PROGRAMS.get(name)
    program = executable.removesuffix(_DELETED).rpartition("/")[2].partition(".")[0]
    gone = not program or capabilities is None
    privileged = uid == 0 or _text(capabilities).strip("0") != ""
    if program == _BUSYBOX:  # which one it is depends on the name that it was called by
        method = named if named in (SU, CONSOLE) else None
    elif not program or (_SHELL.fullmatch(program) and named == CONSOLE):
        method = named
    else:
        method = _PROGRAMS.get(program)
    if method is None:
        return None
    if uid == 0 or (method in _SET_UID and privileged and program):
        return method, True
    return (method, False) if method in _SET_UID and gone and uid is not None else None


def _text(value: Any) -> str:
    """A field. One that is no UTF-8 is a list of bytes; one that is given several times is not believed."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(byte) is int and 0 <= byte < 256 for byte in value):
        return bytes(value).decode("utf-8", "surrogateescape")
    return ""


def _number(value: Any) -> int | None:
    text = _text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _moment(microseconds: int | None) -> str:
    try:
        moment = datetime.fromtimestamp((microseconds or 0) // 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
