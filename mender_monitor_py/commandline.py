"""
Command lines of processes: which script an interpreter runs, and what of it may be shown.

Pure. Arguments are whatever the process made of them: nothing here believes or executes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_SHOWN = 1024
MASK = "***"

_SENSITIVE = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|auth"
)
# A word of a name ends with its separator: there is one way to read it, so that no argument takes long.
_WORDS = r"(?:[A-Za-z0-9]*[-_.])*"
_ASSIGNED = re.compile(rf"(?i)^(-{{0,2}}{_WORDS}(?:{_SENSITIVE})(?:[-_.][-_.\w]*)?)([=:]).+$", re.DOTALL)
_FOLLOWED = re.compile(rf"(?i)^--?{_WORDS}(?:{_SENSITIVE})$")
_IN_ADDRESS = re.compile(r"(\w{1,20}://[^/\s:@]*):[^@\s/]+@")
_IN_HEADER = re.compile(r"(?i)\b(authorization\s*:\s*(?:bearer|basic|token)?|bearer)\s+\S+")
# As a shell reads it, in whatever mixture. What is quoted has its end: nobody hides a command behind a quote.
_VALUE = r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[\"']?[^\s&;,'\"])+"
_INSIDE = re.compile(
    rf"(?i)((?:^|(?<=[\s;&?,'\"])){_WORDS}(?:{_SENSITIVE})=|(?:^|(?<=\s))-{_WORDS}(?:{_SENSITIVE})\s+){_VALUE}"
)

_INTERPRETERS = re.compile(
    r"(?:ba|da|z|k|mk|c|tc|fi|a)?sh|busybox|python[\d.]*|pypy[\d.]*|perl[\d.]*|ruby[\d.]*|node(?:js)?"
    r"|deno|lua[\d.]*|luajit|php[\d.]*|[gmn]?awk|original-awk|tclsh[\d.]*|wish[\d.]*|expect|guile[\d.]*|Rscript|java"
)
# Options that take the next argument with them, where these differ from "none does".
_WITH_VALUE = {
    "python": frozenset({"-W", "-X", "--check-hash-based-pycs"}),
    "perl": frozenset({"-I"}),
    "ruby": frozenset({"-I", "-r", "-E", "-C"}),
    "node": frozenset({"-r", "--require", "--import", "-C", "--conditions"}),
    "php": frozenset({"-c", "-d", "-z"}),
    "awk": frozenset({"-v", "-F"}),
    "sh": frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"}),
    "java": frozenset({"-cp", "-classpath", "--class-path", "-p", "--module-path"}),
}
# Options after which there is code in place of a file.
_CODE = {
    "python": re.compile(r"-[bBdEhiIOqsSuvVxP]*([cm])"),
    "perl": re.compile(r"-\w*([eE])"),
    "ruby": re.compile(r"-\w*(e)"),
    "node": re.compile(r"-(?:-(?:eval|print)$|p?(e)|p$)"),
    "php": re.compile(r"-([rBRE])"),
    "sh": re.compile(r"-[abefhiklmnprtuvxBCEHPT]*(c)"),
    "java": re.compile(r"-(jar)$"),
}
_FILE_OPTIONS = {"php": frozenset({"-f"}), "awk": frozenset({"-f"})}


def is_interpreter(executable: str) -> bool:
    """Whether *executable* is known to run scripts that it is told by an argument."""
    return _INTERPRETERS.fullmatch(executable.rpartition("/")[2]) is not None


def is_shell(executable: str) -> bool:
    """Whether *executable* is a shell: what people work with, and what other programs start commands with."""
    return is_interpreter(executable) and _family(executable) == "sh"


def script(executable: str, arguments: Sequence[str], folder: str) -> str:
    """
    What the interpreter *executable* runs: a script's absolute path, or the option that code was given with.

    *arguments* is the command line, *folder* the working directory. ``-c`` stands for code on the command
    line, ``-m NAME`` for a module; an empty text for neither: it reads its standard input. Busybox is named
    with its applet: ``sh /opt/x.sh``, ``wget``.
    """
    family = _family(executable)
    if family == "busybox":
        return _applet([argument.rpartition("/")[2] for argument in arguments[:2]], arguments, folder)
    with_value, code = _WITH_VALUE.get(family, frozenset()), _CODE.get(family)
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in _FILE_OPTIONS.get(family, ()):
            return _absolute(next(rest, ""), folder)
        if argument == "--":
            return _absolute(next(rest, ""), folder)
        if argument == "-" or not argument:
            return ""
        if code is not None and (found := code.match(argument)):
            letter = found[1] or "e"
            if (family, letter) == ("python", "m"):
                return f"-m {(argument[found.end() :] or next(rest, ''))[:200]}"
            if (family, letter) == ("java", "jar"):
                return _absolute(next(rest, ""), folder)
            return f"-{letter}"
        if argument in with_value:
            next(rest, "")
        elif not argument.startswith(("-", "+")) or (argument.startswith("+") and family != "sh"):
            return _program(family, argument, folder)
    return ""


def shown(arguments: Sequence[str], limit: int = MAX_SHOWN) -> str:
    """*arguments* as a person may see them: secrets masked, odd characters escaped, at most *limit* long."""
    parts, size, mask_next = [], 0, False
    for argument in arguments:
        text = MASK if mask_next and not argument.startswith("-") else _masked(argument[: limit * 4])
        mask_next = _FOLLOWED.match(argument) is not None
        parts.append(printable(text, limit))
        size += len(parts[-1]) + 1
        if size > limit:
            break
    text = " ".join(parts)
    return text if len(text) <= limit else f"{text[:limit]} … (cut)"


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """*text* with each character that would not show as itself escaped, at most *limit* long."""
    if text.isprintable() and len(text) <= limit:
        return text
    cut = text[:limit]
    escaped = cut if cut.isprintable() else "".join(map(_escaped, cut))
    return escaped if len(text) <= limit else f"{escaped} … (cut)"


def _masked(argument: str) -> str:
    if found := _ASSIGNED.match(argument):
        return f"{found[1]}{found[2]}{MASK}"
    argument = _IN_ADDRESS.sub(rf"\1:{MASK}@", argument)
    argument = _IN_HEADER.sub(rf"\1 {MASK}", argument)
    return _INSIDE.sub(rf"\1{MASK}", argument)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _family(executable: str) -> str:
    name = executable.rpartition("/")[2].rstrip("0123456789.")
    if name.endswith("awk"):
        return "awk"
    if name.endswith("sh") and name != "tclsh":
        return "sh"
    return {"nodejs": "node", "pypy": "python"}.get(name, name)


def _applet(names: Sequence[str], arguments: Sequence[str], folder: str) -> str:
    if names[:1] == ["busybox"]:
        names, arguments = names[1:], arguments[1:]
    if not names:
        return ""
    inner = script(names[0], arguments, folder) if is_interpreter(names[0]) and names[0] != "busybox" else ""
    return f"{names[0]} {inner}".strip()


def _program(family: str, argument: str, folder: str) -> str:
    if family == "awk":  # the first argument is the program itself
        return "-e"
    if family == "java":
        return argument[:200]
    return _absolute(argument, folder)


def _absolute(path: str, folder: str) -> str:
    """*path* without dots and double slashes. Links are not followed: it is the name that was asked for."""
    if not path:
        return ""
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{folder}/{path}").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
