"""
The receiver's web page: how things are, what happened, and the lines of one alert.

Everything that a device sent is shown as text, never as HTML; no script runs on it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from mender_monitor_py.model import OK, Line
from mender_monitor_py.receiver.store import Received
from mender_monitor_py.receiver.validation import rfc3339

PER_PAGE = 50
REFRESH_SECONDS = 5
EXCERPT = 300

_STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2430; --soft: #5d6878;
  --line: #dfe3e8; --good: #19733f; --good-back: #dff3e6; --bad: #a8201a; --bad-back: #fbe3e1;
  --warn: #855400; --warn-back: #fdf0d3; --mark: #fff1c2; }
@media (prefers-color-scheme: dark) { :root { --back: #12161c; --card: #1b212a; --text: #e4e8ee;
  --soft: #98a4b5; --line: #2d3642; --good: #7fd8a2; --good-back: #173625; --bad: #ff9b94;
  --bad-back: #45201f; --warn: #f3c267; --warn-back: #40310f; --mark: #4a3d12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; }
a { color: inherit; text-underline-offset: .2em; text-decoration-color: var(--soft); }
.soft, th { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .5rem .8rem; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; font-size: .85rem; white-space: nowrap; }
td.time { white-space: nowrap; font-variant-numeric: tabular-nums; }
.level { display: inline-block; padding: 0 .55em; border-radius: 1em; font-size: .8rem; font-weight: 600;
  white-space: nowrap; background: var(--bad-back); color: var(--bad); }
.level.good { background: var(--good-back); color: var(--good); }
.level.warn { background: var(--warn-back); color: var(--warn); }
code, pre { font: 13px/1.55 ui-monospace, monospace; }
td:nth-child(3) { min-width: 11rem; }
td code { display: block; color: var(--soft); }
pre { margin: 0; padding: .5rem 0; white-space: pre-wrap; word-break: break-all; }
pre span { display: block; padding: 0 .8rem 0 4.8rem; text-indent: -4rem; }
pre b { display: inline-block; width: 3.4rem; margin-right: .6rem; text-align: right; text-indent: 0;
  font-weight: 400; color: var(--soft); user-select: none; }
pre .match { background: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; padding: .8rem; }
dt { color: var(--soft); } dd { margin: 0; }
nav { display: flex; gap: 1rem; margin-top: .8rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def overview(
    latest: Sequence[Received], history: Sequence[Received], count: int, page: int, now: float
) -> str:
    """The first page: the newest alert of each name and subject, then page *page* of all *count* alerts."""
    bad = sum(received.alert.level != OK for received in latest)
    ordered = sorted(latest, key=lambda received: received.alert.level == OK)
    state = _summary(bad, len(latest))
    older = f'<a href="/?page={page + 1}">Older</a>' if page * PER_PAGE < count else ""
    newer = f'<a href="/?page={page - 1}">Newer</a>' if page > 1 else ""
    body = f"""<header><h1>Monitor alerts</h1>{state}
<span class="soft">as of {rfc3339(now)}</span></header>
<h2>Now</h2>{_table(ordered, "Nothing was reported yet.")}
<h2>History <span class="soft">{count}</span></h2>{_table(history, "No alerts.")}
<nav>{newer}{older}</nav>"""
    title = f"({bad}) Monitor alerts" if bad else "Monitor alerts"
    return _document(title, body, refresh=page == 1)


def single(received: Received) -> str:
    """The page of one alert, with all its lines."""
    alert, details = received.alert, received.alert.details
    facts = {
        "Subject": alert.subject.name,
        "Type": alert.subject.type,
        "Status": alert.subject.status,
        "Description": details.description or "none",
        "Time": received.timestamp,
        "Received": rfc3339(received.received),
        "Device": received.device,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    matching = [details.line_matching] if details.line_matching else []
    lines = [
        *(_line(line, "") for line in details.lines_before),
        *(_line(line, "match") for line in matching),
        *(_line(line, "") for line in details.lines_after),
    ]
    log = f'<h2>Lines</h2><div class="card"><pre>{"".join(lines)}</pre></div>' if lines else ""
    body = f"""<header><h1>{_text(alert.name)}</h1>{_badge(alert.level)}</header>
<p><a href="/">All alerts</a></p>
<div class="card"><dl>{rows}</dl></div>{log}"""
    return _document(alert.name, body, refresh=False)


def _document(title: str, body: str, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if refresh else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{again}
<style>{_STYLE}</style></head>
<body><main>{body}</main></body></html>
"""


def _table(alerts: Iterable[Received], empty: str) -> str:
    rows = "".join(_row(received) for received in alerts)
    if not rows:
        return f'<p class="soft">{empty}</p>'
    head = "<tr><th>Level</th><th>Alert</th><th>Subject</th><th>Time</th></tr>"
    return f'<div class="card"><table>{head}{rows}</table></div>'


def _row(received: Received) -> str:
    alert = received.alert
    matching = alert.details.line_matching
    shown = matching.data if matching else alert.details.description
    excerpt = f"<code>{_text(shown[:EXCERPT])}</code>" if shown else ""
    return (
        f"<tr><td>{_badge(alert.level)}</td>"
        f'<td><a href="/alerts/{received.seq}">{_text(alert.name)}</a>{excerpt}</td>'
        f'<td>{_text(alert.subject.name)}<br><span class="soft">{_text(alert.subject.type)}, '
        f"{_text(alert.subject.status)}</span></td>"
        f'<td class="time">{_text(received.timestamp)}</td></tr>'
    )


def _summary(bad: int, known: int) -> str:
    if not known:
        return ""
    kind, words = ("", f"{bad} not OK") if bad else ("good", "all OK")
    return f'<span class="level {kind}">{words}</span>'


def _badge(level: str) -> str:
    kind = {OK: "good", "WARNING": "warn"}.get(level, "")
    return f'<span class="level {kind}">{_text(level)}</span>'


def _line(line: Line, kind: str) -> str:
    return f'<span class="{kind}"><b>{line.number}</b>{_text(line.data) or "&nbsp;"}</span>'


def _text(text: str) -> str:
    """*text* as HTML, with what cannot be seen shown as an escape."""
    return escape("".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text))
