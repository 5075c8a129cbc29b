"""
The text reports of vulnerability scanners: debsecan, lynis, and lines that a pattern picks.

Pure. What is not as its scanner writes it raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mender_monitor_py.vulnerability import Vulnerability, cve_in, known_link, severity

_LINES_MOST = 1_000_000
_LINE_LONGEST = 10_000

# debsecan(1), --format: what a line of summary, simple, bugs, and the first one of a block of detail is.
_BUG = r"(?P<id>(?:CVE|TEMP|DSA|DLA|DTSA|FAKE)-[\w-]+)"
_NOTES = r"(?: \((?P<notes>[a-z, ]+)\))?"
_SUMMARY = re.compile(rf"{_BUG}(?: (?P<package>[a-z0-9][a-z0-9+.-]*))?{_NOTES}")
_HEAD = re.compile(rf"{_BUG}{_NOTES}")
_INSTALLED = re.compile(r"  installed: (\S+) (\S+)")
_BUILT = re.compile(r" +\(built from \S+ \S+\)")
_FIXED = re.compile(r"  fixed (?:in unstable:|on branch:  ) (\S+) (\S+) \((?:source|binary) package\)")
_REPORT = re.compile(r"Security report based on (?:the \S+ release|general data)")
_TRACKER = "https://security-tracker.debian.org/tracker/"
_REPORT_LINK = re.compile(rf"  <{re.escape(_TRACKER)}\S+>")
_REPORT_BUG = re.compile(rf"{_BUG}(?: (?P<title>.*))?")
_REPORT_NOTES = re.compile(r" ?\(([a-z, ]+)\)$")


def debsecan(data: bytes) -> Iterator[Vulnerability]:
    """
    What debsecan prints with ``--format`` detail, summary (its default), simple, bugs or report.

    No output at all is a system without vulnerabilities. ``packages`` names none and raises ValueError.
    """
    lines = _lines(data)
    first = next((line for line in lines if line), "")
    if _REPORT.fullmatch(first):
        yield from _debsecan_report(lines)
    elif any(line.startswith("  installed: ") for line in lines):
        yield from _debsecan_detail(lines)
    else:
        for line in filter(None, lines):
            found = _SUMMARY.fullmatch(line)
            if found is None:
                raise ValueError(f"debsecan writes no line as {line[:80]!r}; use --format detail")
            yield _debsecan(found["id"], found["package"] or "", found["notes"] or "")


def _debsecan(
    name: str, package: str, notes: str, version: str = "", fixed: str = "", title: str = ""
) -> Vulnerability:
    words = notes.split(", ")
    urgency = next((word.removesuffix(" urgency") for word in words if word.endswith(" urgency")), "")
    if "fixed" in words and not fixed:
        fixed = "an update that the archive has"
    remarks = [word for word in words if word in ("remotely exploitable", "obsolete")]
    return Vulnerability(
        name,
        package,
        version,
        severity(urgency),
        fixed,
        " — ".join([*([title] if title else []), *remarks]),
        f"{_TRACKER}{name}",
    )


def _debsecan_detail(lines: list[str]) -> Iterator[Vulnerability]:
    block: list[str] = []
    for line in [*lines, ""]:
        if line:
            block.append(line)
        elif block:
            yield _debsecan_block(block)
            block = []


def _debsecan_block(block: list[str]) -> Vulnerability:
    head = _HEAD.fullmatch(block[0])
    installed = next(filter(None, map(_INSTALLED.fullmatch, block)), None)
    if head is None or installed is None:
        raise ValueError(f"debsecan writes no block that begins {block[0][:80]!r}")
    # The description stands before it, in one line that may be empty.
    title = block[1].strip() if not _INSTALLED.fullmatch(block[1]) else ""
    fixed = dict.fromkeys(found[2] for found in map(_FIXED.fullmatch, block) if found is not None)
    notes = head["notes"] or ""
    if any(line.strip() == "package is obsolete" for line in block):
        notes = f"{notes}, obsolete" if notes else "obsolete"
    return _debsecan(head["id"], installed[1], notes, installed[2], ", ".join(fixed), title)


def _debsecan_report(lines: list[str]) -> Iterator[Vulnerability]:
    """``--format report``: sections, in them vulnerabilities, below these the packages, wrapped."""
    counts, bug, items = True, None, ""
    for line in [*lines, "end"]:
        if items and not line.startswith("    "):
            assert bug is not None
            yield from _report_packages(bug["id"], bug["title"] or "", items)
            items = ""
        if line.startswith("*** "):
            counts = line not in ("*** Fixed vulnerabilities", "*** Packages with invalid versions")
            bug = None
        elif counts and line.startswith("  - ") and bug is not None:
            items = line[4:]
        elif items and line.startswith("    "):
            items = (
                f"{items.rstrip(',')}, {line.strip()}"
                if not line.startswith("    (")
                else f"{items} {line.strip()}"
            )
        elif counts and (found := _REPORT_BUG.fullmatch(line)) is not None:
            bug = found


def _report_packages(name: str, title: str, items: str) -> Iterator[Vulnerability]:
    notes = _REPORT_NOTES.search(items)
    packages = items[: notes.start()] if notes else items
    for package in packages.split(","):
        if package.strip():
            yield _debsecan(name, package.strip(), notes[1] if notes else "", title=title)


def lynis(data: bytes) -> Iterator[Vulnerability]:
    """
    The report file of lynis, ``/var/log/lynis-report.dat``: warnings are high, suggestions low.

    Raises ValueError when it is none, or the audit did not get to its end.
    """
    pairs = [
        (name, value) for name, equals, value in (line.partition("=") for line in _lines(data)) if equals
    ]
    names = {name for name, _ in pairs}
    if "report_version_major" not in names:
        raise ValueError("it is no report of lynis: it has no report_version_major")
    if ("finish", "true") not in pairs:
        raise ValueError("lynis did not get to its end: the report has no finish=true")
    levels = {"warning[]": "high", "suggestion[]": "low"}
    for name, value in pairs:
        if name in levels:
            yield _lynis(value, levels[name])
        elif name == "vulnerable_package[]":
            package, _, version = value.partition("|")
            yield Vulnerability("PKGS-7392", package, version.strip("|"), "high", link=_control("PKGS-7392"))


def _lynis(value: str, level: str) -> Vulnerability:
    """``TEST|message|details|solution|``; a dash is none, and a detail may hold the sign that parts them."""
    test, _, rest = value.removesuffix("|").partition("|")
    message, _, rest = rest.partition("|")
    details, _, solution = rest.rpartition("|")
    details, solution = ("" if text == "-" else text for text in (details, solution))
    is_link = solution.startswith("url:")
    return Vulnerability(
        test,
        severity=level,
        fixed="" if is_link else solution.removeprefix("text:"),
        title=message,
        link=solution.removeprefix("url:") if is_link else _control(test),
        detail=details or message,
    )


def _control(test: str) -> str:
    return f"https://cisofy.com/lynis/controls/{test}/" if re.fullmatch(r"[A-Z]{2,8}-\d{1,6}", test) else ""


def pattern(text: str) -> re.Pattern[str]:
    """
    What picks the lines: a regular expression, maybe with the groups id, package, version, severity, fixed,
    title and link.

    ``(?<id>…)`` is as good as Python's ``(?P<id>…)``. Raises ValueError with a reason for the user.
    """
    try:
        return re.compile(re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", text))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} is no regular expression: {error}") from error


def lines(data: bytes, wanted: re.Pattern[str]) -> Iterator[Vulnerability]:
    """Each line in whose first 10,000 characters *wanted* is found."""
    for line in _lines(data):
        found = wanted.search(line[:_LINE_LONGEST])
        if found is not None:
            yield _picked(
                {name: value or "" for name, value in found.groupdict().items()}, found[0].strip(), line
            )


def _picked(groups: dict[str, str], matched: str, line: str) -> Vulnerability:
    name = groups.get("id") or cve_in(line)
    package = groups.get("package", "")
    title = groups.get("title") or ("" if package else line.strip())
    return Vulnerability(
        name or matched,
        package,
        groups.get("version", ""),
        severity(groups.get("severity", "")),
        groups.get("fixed", ""),
        title if name else "",
        groups.get("link") or known_link(name),
        detail=matched if name and not package else "",
    )


def _lines(data: bytes) -> list[str]:
    """The lines of *data*. Raises ValueError when they are more than a report's."""
    if data.count(b"\n") > _LINES_MOST:
        raise ValueError(f"it has more than {_LINES_MOST:,} lines")
    return [line.rstrip("\r") for line in data.decode(errors="replace").split("\n")]
