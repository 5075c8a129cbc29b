"""
The JSON reports of vulnerability scanners: trivy, grype and osv-scanner. SARIF is sarif.py.

Pure. A report is foreign input: what is not as its schema says raises ValueError, what the schema lets be
absent or null may be.
"""

from __future__ import annotations

from collections.abc import Iterator

from mender_monitor_py.jsonfields import (
    Json,
    items_of,
    member_of,
    needed,
    object_of,
    parsed,
    text_of,
    texts_of,
)
from mender_monitor_py.vulnerability import (
    Vulnerability,
    known_link,
    preferred,
    rank,
    severity,
    severity_of_score,
)

_TRIVY = frozenset(
    (
        "SchemaVersion", "Results", "Resources", "Target", "Class", "Type", "Vulnerabilities",
        "Misconfigurations", "Secrets", "VulnerabilityID", "PkgName", "PkgPath", "InstalledVersion",
        "FixedVersion", "PrimaryURL", "Title", "Severity", "VendorIDs", "ID", "AVDID", "Status", "RuleID",
        "StartLine", "Resolution", "Findings",
    )
)  # fmt: skip
_GRYPE = frozenset(
    (
        "matches", "vulnerability", "relatedVulnerabilities", "artifact", "id", "severity", "dataSource",
        "fix", "versions", "state", "name", "version", "locations", "path", "description",
    )
)  # fmt: skip
_OSV = frozenset(
    (
        "results", "source", "path", "packages", "package", "name", "version", "commit", "vulnerabilities",
        "groups", "ids", "aliases", "max_severity", "id", "summary", "database_specific", "severity",
        "affected", "ranges", "type", "events", "fixed",
    )
)  # fmt: skip


def trivy(data: bytes) -> Iterator[Vulnerability]:
    """``trivy … --format json``: of one target, of a cluster, and the list that versions before 0.20 gave."""
    document = parsed(data, _TRIVY)
    if isinstance(document, list):
        results = document
    else:
        report = object_of(document, "the report")
        if not report.keys() & {"SchemaVersion", "Results", "Resources"}:
            raise ValueError("it is no report of trivy: neither SchemaVersion nor Results")
        results = items_of(report, "Results")
        for resource in [*items_of(report, "Resources"), *items_of(report, "Findings")]:
            results = results + items_of(object_of(resource, "a resource"), "Results")
    for result in results:
        yield from _trivy_result(object_of(result, "a result"))


def _trivy_result(result: Json) -> Iterator[Vulnerability]:
    target = text_of(result, "Target")
    for item in items_of(result, "Vulnerabilities"):
        one = object_of(item, "a vulnerability")
        name, aliases = preferred((text_of(one, "VulnerabilityID"), *texts_of(one, "VendorIDs")))
        path = text_of(one, "PkgPath")
        yield Vulnerability(
            needed(name, "VulnerabilityID"),
            text_of(one, "PkgName"),
            text_of(one, "InstalledVersion"),
            severity(text_of(one, "Severity")),
            text_of(one, "FixedVersion"),
            text_of(one, "Title"),
            text_of(one, "PrimaryURL") or known_link(name),
            aliases,
            tuple(filter(None, (target, path))),
        )
    for item in items_of(result, "Misconfigurations"):
        one = object_of(item, "a misconfiguration")
        if text_of(one, "Status") in ("", "FAIL"):
            yield Vulnerability(
                needed(text_of(one, "AVDID") or text_of(one, "ID"), "ID"),
                severity=severity(text_of(one, "Severity")),
                fixed=text_of(one, "Resolution"),
                title=text_of(one, "Title"),
                link=text_of(one, "PrimaryURL"),
                places=(target,) if target else (),
                detail=target,
            )
    for item in items_of(result, "Secrets"):
        one = object_of(item, "a secret")  # what it is (Match, Code) is not taken over
        place = f"{target}:{one['StartLine']}" if isinstance(one.get("StartLine"), int) else target
        yield Vulnerability(
            needed(text_of(one, "RuleID"), "RuleID"),
            severity=severity(text_of(one, "Severity")),
            title=text_of(one, "Title"),
            places=(place,),
            detail=place,
        )


def grype(data: bytes) -> Iterator[Vulnerability]:
    """``grype … -o json``."""
    report = object_of(parsed(data, _GRYPE), "the report")
    if "matches" not in report:
        raise ValueError("it is no report of grype: it has no matches")
    for item in items_of(report, "matches"):
        match = object_of(item, "a match")
        one, artifact = member_of(match, "vulnerability"), member_of(match, "artifact")
        related = [
            text_of(object_of(other, "a vulnerability"), "id")
            for other in items_of(match, "relatedVulnerabilities")
        ]
        name, aliases = preferred((text_of(one, "id"), *related))
        fix = member_of(one, "fix")
        state = text_of(fix, "state")
        places = (
            text_of(object_of(place, "a location"), "path") for place in items_of(artifact, "locations")
        )
        yield Vulnerability(
            needed(name, "vulnerability.id"),
            text_of(artifact, "name"),
            text_of(artifact, "version"),
            severity(text_of(one, "severity")),
            ", ".join(texts_of(fix, "versions")) or ("will not be fixed" if state == "wont-fix" else ""),
            text_of(one, "description"),
            text_of(one, "dataSource") or known_link(name),
            aliases,
            tuple(filter(None, places)),
        )


def osv(data: bytes) -> Iterator[Vulnerability]:
    """``osv-scanner --format json``."""
    report = object_of(parsed(data, _OSV), "the report")
    if "results" not in report:
        raise ValueError("it is no report of osv-scanner: it has no results")
    for item in items_of(report, "results"):
        result = object_of(item, "a result")
        path = text_of(member_of(result, "source"), "path")
        for entry in items_of(result, "packages"):
            yield from _osv_package(object_of(entry, "a package"), path)


def _osv_package(entry: Json, path: str) -> Iterator[Vulnerability]:
    package = member_of(entry, "package")
    by_id = {
        needed(text_of(one, "id"), "id"): one
        for one in (object_of(item, "a vulnerability") for item in items_of(entry, "vulnerabilities"))
    }
    groups = [object_of(item, "a group") for item in items_of(entry, "groups")]
    grouped = {name for group in groups for name in texts_of(group, "ids")}
    groups += [{"ids": [name]} for name in by_id if name not in grouped]
    for group in groups:
        members = [by_id[name] for name in texts_of(group, "ids") if name in by_id]
        others = [name for one in members for name in texts_of(one, "aliases")]
        name, aliases = preferred((*texts_of(group, "ids"), *texts_of(group, "aliases"), *others))
        fixed = [version for one in members for version in _osv_fixed(one, text_of(package, "name"))]
        versions = [version for kind, version in fixed if kind != "GIT"]
        yield Vulnerability(
            needed(name, "ids"),
            text_of(package, "name"),
            text_of(package, "version") or text_of(package, "commit"),
            _osv_severity(group, members),
            ", ".join(dict.fromkeys(versions or (commit for _, commit in fixed))),
            next(filter(None, (text_of(one, "summary") for one in members)), ""),
            known_link(name) or f"https://osv.dev/vulnerability/{name}",
            aliases,
            (path,) if path else (),
        )


def _osv_severity(group: Json, members: list[Json]) -> str:
    try:
        return severity_of_score(float(text_of(group, "max_severity")))
    except ValueError:  # versions before 1.4 have no scores; some databases have words
        words = (member_of(one, "database_specific").get("severity") for one in members)
        return max((severity(word) for word in words if isinstance(word, str)), key=rank, default="unknown")


def _osv_fixed(one: Json, package: str) -> Iterator[tuple[str, str]]:
    """The kind of each range, GIT for commits, and where it ends."""
    for item in items_of(one, "affected"):
        affected = object_of(item, "an affected package")
        if text_of(member_of(affected, "package"), "name") in ("", package):
            for span in items_of(affected, "ranges"):
                ranged = object_of(span, "a range")
                for event in items_of(ranged, "events"):
                    if fixed := text_of(object_of(event, "an event"), "fixed"):
                        yield text_of(ranged, "type"), fixed
