"""
SARIF 2.1.0 (OASIS), the report format of many analysis tools, as findings.

Pure. Numbers in comments are sections of the standard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mender_monitor_py.jsonfields import Json, items_of, member_of, object_of, parsed, text_of
from mender_monitor_py.vulnerability import Vulnerability, known_link, severity_of_score

_KNOWN = frozenset(
    (
        "version", "runs", "tool", "driver", "extensions", "rules", "id", "name", "shortDescription",
        "fullDescription", "text", "helpUri", "properties", "security-severity", "defaultConfiguration",
        "level", "results", "ruleId", "ruleIndex", "rule", "index", "toolComponent", "message", "kind",
        "locations", "physicalLocation", "artifactLocation", "uri", "suppressions", "status",
        "baselineState", "invocations", "executionSuccessful", "artifacts", "location",
    )
)  # fmt: skip


def sarif(data: bytes) -> Iterator[Vulnerability]:
    """SARIF 2.1.0 (OASIS), of whatever tool."""
    report = object_of(parsed(data, _KNOWN), "the report")
    if "runs" not in report:
        raise ValueError("it is no SARIF report: it has no runs")
    for number, item in enumerate(items_of(report, "runs")):
        run = object_of(item, "a run")
        for invocation in items_of(run, "invocations"):
            if object_of(invocation, "an invocation").get("executionSuccessful") is False:
                raise ValueError(f"run {number} says of itself that it failed")
        # 3.14.23: without results the tool did not look; an empty list is what it found nothing with.
        if run.get("results") is None:
            raise ValueError(f"run {number} has no results")
        tool = member_of(run, "tool")
        components = [
            member_of(tool, "driver"),
            *(object_of(one, "an extension") for one in items_of(tool, "extensions")),
        ]
        rules = [[object_of(rule, "a rule") for rule in items_of(one, "rules")] for one in components]
        artifacts = [object_of(one, "an artifact") for one in items_of(run, "artifacts")]
        for result in items_of(run, "results"):
            yield from _sarif_result(object_of(result, "a result"), rules, artifacts)


def _sarif_result(result: Json, rules: list[list[Json]], artifacts: list[Json]) -> Iterator[Vulnerability]:
    # 3.27.9 kind, 3.27.23 suppressions, 3.27.24 baselineState: what is no finding of this moment.
    if text_of(result, "kind") in ("pass", "notApplicable", "informational") or _suppressed(result):
        return
    if text_of(result, "baselineState") == "absent":
        return
    rule = _sarif_rule(result, rules)
    name = text_of(result, "ruleId") or text_of(member_of(result, "rule"), "id") or text_of(rule, "id")
    message = text_of(member_of(result, "message"), "text")
    said = _said(message)
    places = tuple(
        dict.fromkeys(filter(None, (_sarif_place(one, artifacts) for one in items_of(result, "locations"))))
    )
    package = said.get("Package", "")
    detail = "" if package else places[0] if places else message
    title = text_of(member_of(rule, "shortDescription"), "text") or message.partition("\n")[0]
    yield Vulnerability(
        name or "without a rule",
        package,
        said.get("Installed Version", ""),
        _sarif_severity(result, rule),
        said.get("Fixed Version", ""),
        title,
        text_of(rule, "helpUri") or known_link(name),
        places=places,
        detail=detail,
        message="" if package else message,
    )


def _sarif_rule(result: Json, rules: list[list[Json]]) -> Json:
    """3.52: the rule by its index, else by its id, which may have more levels than the rule's."""
    reference = member_of(result, "rule")
    component = member_of(reference, "toolComponent").get("index", -1)
    index = result.get("ruleIndex", reference.get("index", -1))
    ours = rules[component + 1] if isinstance(component, int) and -1 <= component < len(rules) - 1 else []
    if isinstance(index, int) and 0 <= index < len(ours):
        return ours[index]
    name = text_of(result, "ruleId") or text_of(reference, "id")
    for group in rules:
        for rule in group:
            known = text_of(rule, "id")
            if known and (name == known or name.startswith(f"{known}/")):
                return rule
    return {}


def _sarif_severity(result: Json, rule: Json) -> str:
    for holder in (result, rule):
        score = member_of(holder, "properties").get("security-severity")
        try:
            return severity_of_score(float(score))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    level = text_of(result, "level") or text_of(member_of(rule, "defaultConfiguration"), "level") or "warning"
    return {"error": "high", "warning": "medium", "note": "low", "none": "negligible"}.get(level, "unknown")


def _sarif_place(item: Any, artifacts: list[Json]) -> str:
    place = member_of(member_of(object_of(item, "a location"), "physicalLocation"), "artifactLocation")
    if uri := text_of(place, "uri"):
        return uri
    index = place.get("index")
    if isinstance(index, int) and 0 <= index < len(artifacts):
        return text_of(member_of(artifacts[index], "location"), "uri")
    return ""


def _suppressed(result: Json) -> bool:
    """3.35.3: a suppression counts unless its status says that it is not (yet) accepted."""
    found = [object_of(one, "a suppression") for one in items_of(result, "suppressions")]
    return bool(found) and all(text_of(one, "status") in ("", "accepted") for one in found)


def _said(message: str) -> dict[str, str]:
    """The lines ``Package: openssl`` of a message, as trivy writes them."""
    pairs = (line.partition(": ") for line in message.splitlines()[:20])
    return {name: value for name, colon, value in pairs if colon}
