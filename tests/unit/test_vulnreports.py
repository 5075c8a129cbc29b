"""
The JSON reports of trivy, grype, osv-scanner and SARIF, written here by their published schemas.

SARIF is valid by the schema 2.1.0-rtm.5 of OASIS, the vulnerabilities in OSV by the schema of OSSF.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mender_monitor_py.sarif import sarif
from mender_monitor_py.vulnerability import Vulnerability, merged
from mender_monitor_py.vulnreports import grype, osv, trivy

Parser = Callable[[bytes], Iterable[Vulnerability]]

TRIVY: dict[str, Any] = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-11-25T03:00:00Z",
    "ArtifactName": "/",
    "ArtifactType": "filesystem",
    "Metadata": {"OS": {"Family": "debian", "Name": "12.8"}},
    "Results": [
        {
            "Target": "device (debian 12.8)",
            "Class": "os-pkgs",
            "Type": "debian",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2024-5535",
                    "VendorIDs": ["DSA-5764-1"],
                    "PkgID": "openssl@3.0.14-1~deb12u1",
                    "PkgName": "openssl",
                    "InstalledVersion": "3.0.14-1~deb12u1",
                    "FixedVersion": "3.0.15-1~deb12u1",
                    "Status": "fixed",
                    "SeveritySource": "nvd",
                    "PrimaryURL": "https://avd.aquasec.com/nvd/cve-2024-5535",
                    "Title": "openssl: SSL_select_next_proto buffer overread",
                    "Description": "Issue summary: ...",
                    "Severity": "CRITICAL",
                    "CVSS": {"nvd": {"V3Vector": "CVSS:3.1/AV:N", "V3Score": 9.1}},
                    "References": ["https://example.org/a", "https://example.org/b"],
                },
                {"VulnerabilityID": "CVE-2005-2541", "PkgName": "tar", "Severity": "UNKNOWN"},
            ],
        },
        {"Target": "opt/app/package-lock.json", "Class": "lang-pkgs", "Type": "npm", "Vulnerabilities": None},
        {
            "Target": "Dockerfile",
            "Class": "config",
            "Misconfigurations": [
                {
                    "ID": "DS002", "AVDID": "AVD-DS-0002", "Title": "Image user should not be root",
                    "Severity": "HIGH", "Status": "FAIL", "Resolution": "Add a USER",
                    "PrimaryURL": "https://avd.aquasec.com/misconfig/ds002",
                },
                {"ID": "DS001", "Status": "PASS", "Severity": "HIGH"},
            ],
        },
        {
            "Target": "/etc/app.conf",
            "Class": "secret",
            "Secrets": [
                {
                    "RuleID": "aws-access-key-id", "Category": "AWS", "Severity": "CRITICAL",
                    "Title": "AWS Access Key ID", "StartLine": 7, "EndLine": 7, "Match": "key=****",
                }
            ],
        },
    ],
}  # fmt: skip

GRYPE: dict[str, Any] = {
    "matches": [
        {
            "vulnerability": {
                "id": "GHSA-jfh8-c2jp-5v3q",
                "dataSource": "https://github.com/advisories/GHSA-jfh8-c2jp-5v3q",
                "namespace": "github:language:java",
                "severity": "Critical",
                "urls": [],
                "description": "Remote code injection in Log4j",
                "cvss": [{"version": "3.1", "metrics": {"baseScore": 10}}],
                "fix": {"versions": ["2.15.0", "2.12.2"], "state": "fixed"},
                "advisories": [],
            },
            "relatedVulnerabilities": [{"id": "CVE-2021-44228", "severity": "Critical"}],
            "matchDetails": [{"type": "exact-direct-match"}],
            "artifact": {
                "id": "1", "name": "log4j-core", "version": "2.14.1", "type": "java-archive",
                "locations": [{"path": "/opt/app/lib/log4j-core.jar", "layerID": "sha256:0"}],
            },
        },
        {
            "vulnerability": {"id": "CVE-2011-3374", "severity": "Negligible", "fix": {"state": "wont-fix"}},
            "relatedVulnerabilities": None,
            "artifact": {"name": "apt", "version": "2.6.1", "type": "deb", "locations": None},
        },
    ],
    "ignoredMatches": [],
    "source": {"type": "directory", "target": "/"},
    "distro": {"name": "debian", "version": "12"},
    "descriptor": {"name": "grype", "version": "0.84.0"},
}  # fmt: skip

OSV: dict[str, Any] = {
    "results": [
        {
            "source": {"path": "/opt/app/requirements.txt", "type": "lockfile"},
            "packages": [
                {
                    "package": {"name": "jinja2", "version": "2.4.1", "ecosystem": "PyPI"},
                    "vulnerabilities": [
                        {
                            "id": "GHSA-462w-v97r-4m45",
                            "modified": "2024-09-24T21:04:35Z",
                            "aliases": ["CVE-2019-10906", "PYSEC-2019-217"],
                            "summary": "Jinja2 sandbox escape",
                            "database_specific": {"severity": "HIGH"},
                            "affected": [
                                {
                                    "package": {"name": "jinja2", "ecosystem": "PyPI"},
                                    "ranges": [
                                        {
                                            "type": "GIT",
                                            "repo": "https://github.com/pallets/jinja",
                                            "events": [{"introduced": "0"}, {"fixed": "a2a6c930bcca591a"}],
                                        },
                                        {
                                            "type": "ECOSYSTEM",
                                            "events": [{"introduced": "0"}, {"fixed": "2.10.1"}],
                                        },
                                    ],
                                    "versions": ["2.4.1"],
                                }
                            ],
                        },
                        {
                            "id": "PYSEC-2019-217",
                            "modified": "2021-08-27T03:22:05Z",
                            "aliases": ["CVE-2019-10906"],
                        },
                        {
                            "id": "PYSEC-2014-8",
                            "modified": "2021-07-05T00:01:22Z",
                            "database_specific": {"severity": "MODERATE"},
                            "affected": [
                                {
                                    "ranges": [
                                        {
                                            "type": "GIT",
                                            "repo": "https://github.com/pallets/jinja",
                                            "events": [{"introduced": "0"}, {"fixed": "acb672b6a179567"}],
                                        }
                                    ]
                                }
                            ],
                        },
                    ],
                    "groups": [
                        {
                            "ids": ["GHSA-462w-v97r-4m45", "PYSEC-2019-217"],
                            "aliases": ["CVE-2019-10906", "GHSA-462w-v97r-4m45", "PYSEC-2019-217"],
                            "max_severity": "8.6",
                        }
                    ],
                }
            ],
        },
        {"source": {"path": "/opt/app/go.mod", "type": "lockfile"}, "packages": []},
    ]
}

SARIF: dict[str, Any] = {
    "version": "2.1.0",
    "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
    "runs": [
        {
            "tool": {
                "driver": {
                    "name": "CodeQL",
                    "rules": [
                        {
                            "id": "js/sql-injection",
                            "shortDescription": {"text": "Database query built from user input"},
                            "helpUri": "https://codeql.github.com/js/sql-injection",
                            "properties": {"security-severity": "8.8", "tags": ["security"]},
                        },
                        {"id": "js/unused", "defaultConfiguration": {"level": "note"}},
                    ],
                },
                "extensions": [
                    {"name": "more", "rules": [{"id": "EXT1", "defaultConfiguration": {"level": "error"}}]}
                ],
            },
            "invocations": [{"executionSuccessful": True}],
            "artifacts": [{"location": {"uri": "src/app.js"}}],
            "results": [
                {
                    "ruleId": "js/sql-injection",
                    "ruleIndex": 0,
                    "message": {"text": "This query depends on user input."},
                    "locations": [
                        {"physicalLocation": {"artifactLocation": {"index": 0}, "region": {"startLine": 3}}}
                    ],
                },
                {"rule": {"index": 0, "toolComponent": {"index": 0}}, "message": {"text": "of an extension"}},
                {"ruleId": "js/unused/const", "message": {"text": "a rule with a level more"}},
                {"ruleId": "free", "level": "error", "message": {"text": "no rule"}},
                {"ruleId": "gone", "baselineState": "absent", "message": {"text": "x"}},
                {"ruleId": "fine", "kind": "pass", "message": {"text": "x"}},
                {"ruleId": "ok", "suppressions": [{"kind": "inSource"}], "message": {"text": "x"}},
                {
                    "ruleId": "no",
                    "suppressions": [{"kind": "external", "status": "rejected"}],
                    "message": {"text": "y"},
                },
                {
                    "ruleId": "CVE-2024-5535",
                    "message": {
                        "text": "Package: openssl\nInstalled Version: 3.0.14\nFixed Version: 3.0.15\n"
                    },
                },
            ],
        }
    ],
}


def found(parser: Parser, report: object) -> list[Vulnerability]:
    return merged(parser(json.dumps(report).encode()))


def test_trivy() -> None:
    critical, secret, misconfigured, unrated = found(trivy, TRIVY)
    assert critical == Vulnerability(
        "CVE-2024-5535",
        "openssl",
        "3.0.14-1~deb12u1",
        "critical",
        "3.0.15-1~deb12u1",
        "openssl: SSL_select_next_proto buffer overread",
        "https://avd.aquasec.com/nvd/cve-2024-5535",
        ("DSA-5764-1",),
        ("device (debian 12.8)",),
    )
    assert critical.name == "Vulnerability CVE-2024-5535 in openssl 3.0.14-1~deb12u1"
    assert (secret.id, secret.places) == ("aws-access-key-id", ("/etc/app.conf:7",))
    assert "****" not in repr(secret)
    assert misconfigured.name == "Vulnerability AVD-DS-0002: Image user should not be root"
    assert (unrated.id, unrated.severity, unrated.link) == (
        "CVE-2005-2541",
        "unknown",
        "https://nvd.nist.gov/vuln/detail/CVE-2005-2541",
    )


@pytest.mark.parametrize(
    "report",
    [
        {"SchemaVersion": 2, "ArtifactName": "x"},
        {"SchemaVersion": 2, "Results": None},
        {"SchemaVersion": 2, "Results": []},
        {"SchemaVersion": 2, "Results": [{"Target": "x"}]},
        [],
    ],
)
def test_trivy_that_found_nothing(report: object) -> None:
    assert found(trivy, report) == []


def test_trivy_of_a_cluster_and_of_old() -> None:
    assert (
        len(found(trivy, {"ClusterName": "c", "Resources": [TRIVY, {"Kind": "Pod", "Results": None}]})) == 4
    )
    assert len(found(trivy, TRIVY["Results"])) == 4


def test_grype() -> None:
    log4j, apt = found(grype, GRYPE)
    assert (log4j.id, log4j.aliases) == ("CVE-2021-44228", ("GHSA-jfh8-c2jp-5v3q",))
    assert (log4j.package, log4j.version, log4j.fixed) == ("log4j-core", "2.14.1", "2.15.0, 2.12.2")
    assert (log4j.severity, log4j.places) == ("critical", ("/opt/app/lib/log4j-core.jar",))
    assert (apt.severity, apt.fixed) == ("negligible", "will not be fixed")
    assert found(grype, {"matches": None}) == []


def test_osv() -> None:
    grouped, alone = found(osv, OSV)
    assert (grouped.id, grouped.severity, grouped.fixed) == ("CVE-2019-10906", "high", "2.10.1")
    assert (grouped.package, grouped.version, grouped.title) == ("jinja2", "2.4.1", "Jinja2 sandbox escape")
    assert set(grouped.aliases) == {"GHSA-462w-v97r-4m45", "PYSEC-2019-217"}
    assert (alone.id, alone.severity, alone.fixed) == ("PYSEC-2014-8", "medium", "acb672b6a179567")
    assert alone.link == "https://osv.dev/vulnerability/PYSEC-2014-8"
    assert found(osv, {"results": []}) == []


def test_sarif() -> None:
    by_id = {one.id: one for one in found(sarif, SARIF)}
    assert set(by_id) == {"js/sql-injection", "EXT1", "js/unused/const", "free", "no", "CVE-2024-5535"}
    injection = by_id["js/sql-injection"]
    assert (injection.severity, injection.places) == ("high", ("src/app.js",))
    assert injection.name == "Vulnerability js/sql-injection: Database query built from user input"
    levels = {name: one.severity for name, one in by_id.items()}
    assert (levels["EXT1"], levels["js/unused/const"], levels["free"]) == ("high", "low", "high")
    assert by_id["CVE-2024-5535"].name == "Vulnerability CVE-2024-5535 in openssl 3.0.14"
    assert "This query depends on user input." in injection.lines()
    (lenient,) = found(sarif, {"runs": [{"results": [{"message": {"text": "no list"}, "locations": None}]}]})
    assert lenient.lines() == ["without a rule", "severity: medium", "no list"]


@pytest.mark.parametrize(
    ("parser", "report", "reason"),
    [
        (trivy, {"matches": []}, "no report of trivy"),
        (trivy, {"SchemaVersion": 2, "Results": {}}, "Results is an object, not a list"),
        (trivy, {"SchemaVersion": 2, "Results": [None]}, "a result is null"),
        (trivy, {"Results": [{"Vulnerabilities": [{"PkgName": "x"}]}]}, "no VulnerabilityID"),
        (trivy, {"Results": [{"Vulnerabilities": [{"VulnerabilityID": 7}]}]}, "is a number"),
        (grype, {}, "no report of grype"),
        (grype, {"matches": [{"vulnerability": None, "artifact": {}}]}, "vulnerability.id"),
        (osv, {"vulns": []}, "no report of osv-scanner"),
        (osv, {"results": [{"packages": [{"vulnerabilities": [{}]}]}]}, "no id"),
        (sarif, {"version": "2.1.0"}, "no SARIF report"),
        (sarif, {"runs": [{"tool": {}}]}, "no results"),
        (sarif, {"runs": [{"results": [], "invocations": [{"executionSuccessful": False}]}]}, "it failed"),
    ],
)
def test_what_is_no_report_is_told_apart_from_one_without_findings(
    parser: Parser, report: object, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        found(parser, report)


@pytest.mark.parametrize("parser", [trivy, grype, osv, sarif])
@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[" * 100_000, b'"x"', b"\xff\xfe\xff", b"1" * 5000])
def test_what_is_no_json(parser: Parser, data: bytes) -> None:
    with pytest.raises(ValueError):
        merged(parser(data))


def keys(report: object) -> set[str]:
    if isinstance(report, dict):
        return set(report) | {key for value in report.values() for key in keys(value)}
    return {key for value in report for key in keys(value)} if isinstance(report, list) else set()


KEYS = sorted(keys([TRIVY, GRYPE, OSV, SARIF]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


def mutated(report: Any, path: list[int], value: object) -> Any:
    """*report* with *value* somewhere in the place of what was there."""
    if not path or not isinstance(report, dict | list) or not report:
        return value
    if isinstance(report, dict):
        name = sorted(report)[path[0] % len(report)]
        return {**report, name: mutated(report[name], path[1:], value)}
    index = path[0] % len(report)
    return [*report[:index], mutated(report[index], path[1:], value), *report[index + 1 :]]


@pytest.mark.parametrize(("parser", "report"), [(trivy, TRIVY), (grype, GRYPE), (osv, OSV), (sarif, SARIF)])
@given(path=st.lists(st.integers(0, 20), max_size=8), value=VALUES, raw=st.binary(max_size=40))
def test_any_input_is_findings_or_a_value_error(
    parser: Parser, report: object, path: list[int], value: object, raw: bytes
) -> None:
    for data in (json.dumps(mutated(report, path, value)).encode(), json.dumps(value).encode(), raw):
        try:
            telling = merged(parser(data))
        except ValueError:
            continue
        assert len(telling) <= len(data)
        for one in telling:
            assert one.id
            assert one.name.isprintable()
            assert "\n".join(one.lines()).replace("\n", "").isprintable()
            assert len(json.dumps(one.lines())) < 30_000
