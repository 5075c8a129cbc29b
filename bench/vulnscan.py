"""
What the report of a vulnerability scanner costs: to read it, by the scan's own process, and in the daemon.

The peer is Python's json of the whole report. Measured are CPU seconds and the greatest RSS of a fresh
interpreter, and the RSS of a daemon before and after a scan with a report of 20 MB.

    python -m bench.vulnscan [--findings 1000] [--python /usr/bin/python3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.support import PROJECT, Device, cost

TEXT = "A flaw was found in the way this package handles its input. " * 20
READ = """
import sys, time
from pathlib import Path
data = Path(sys.argv[1]).read_bytes()
{imports}
begin = time.process_time()
found = {read}
spent = time.process_time() - begin
status = Path("/proc/self/status").read_text().splitlines()
print(spent, next(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""
OURS = "from mender_monitor_py.vulnerability import merged\nfrom mender_monitor_py import {module}"


def trivy(count: int) -> bytes:
    found = [
        {
            "VulnerabilityID": f"CVE-2024-{number}",
            "PkgID": f"package-{number}@1.0",
            "PkgName": f"package-{number}",
            "InstalledVersion": "1.0-1",
            "FixedVersion": "1.0-2",
            "PrimaryURL": f"https://avd.aquasec.com/nvd/cve-2024-{number}",
            "Title": "package: a flaw",
            "Description": TEXT,
            "Severity": "LOW" if number % 50 else "HIGH",
            "CVSS": {"nvd": {"V3Vector": "CVSS:3.1/AV:N/AC:L", "V3Score": 7.5}},
            "References": [f"https://example.org/{number}/{reference}" for reference in range(12)],
        }
        for number in range(10_000, 10_000 + count)
    ]
    return json.dumps({"SchemaVersion": 2, "Results": [{"Target": "/", "Vulnerabilities": found}]}).encode()


def grype(count: int) -> bytes:
    matches = [
        {
            "vulnerability": {
                "id": f"CVE-2024-{number}", "severity": "Low", "description": TEXT,
                "fix": {"versions": ["1.0-2"], "state": "fixed"}, "urls": ["https://example.org"] * 12,
            },
            "relatedVulnerabilities": [{"id": f"CVE-2024-{number}", "description": TEXT}],
            "matchDetails": [{"type": "exact-direct-match", "found": {"versionConstraint": "< 1.0-2"}}],
            "artifact": {"name": f"package-{number}", "version": "1.0-1", "locations": [{"path": "/x"}]},
        }
        for number in range(10_000, 10_000 + count)
    ]  # fmt: skip
    return json.dumps({"matches": matches}).encode()


def sarif(count: int) -> bytes:
    rules = [
        {"id": f"R{number}", "shortDescription": {"text": "a flaw"}, "help": {"text": TEXT}}
        for number in range(count)
    ]
    results = [
        {"ruleId": f"R{number}", "ruleIndex": number, "message": {"text": TEXT}, "level": "error"}
        for number in range(count)
    ]
    return json.dumps({"runs": [{"tool": {"driver": {"rules": rules}}, "results": results}]}).encode()


def debsecan(count: int) -> bytes:
    blocks = (
        f"CVE-2024-{number} (fixed, remotely exploitable, high urgency)\n  {TEXT[:60]}\n"
        f"  installed: package-{number} 1.0-1\n             (built from package 1.0-1)\n"
        f"  fixed in unstable: package 1.0-2 (source package)\n\n"
        for number in range(10_000, 10_000 + count)
    )
    return "".join(blocks).encode()


REPORTS = {"trivy": ("vulnreports", trivy), "grype": ("vulnreports", grype), "sarif": ("sarif", sarif)}
TEXTS = {"debsecan": ("vulntexts", debsecan)}


def read(python: str, imports: str, expression: str, file: Path) -> tuple[float, int]:
    """CPU seconds, and the greatest RSS in bytes, of the least of three."""
    found = []
    for _ in range(3):
        done = subprocess.run(
            [python, "-c", READ.format(imports=imports, read=expression), str(file)],
            cwd=PROJECT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        spent, rss = done.stdout.split()
        found.append((float(spent), int(rss) * 1024))
    return min(found)


def reading(folder: Path, options: argparse.Namespace) -> None:
    print(f"{'report':<10}{'MB':>6}{'CPU ms / 1,000':>16}{'RSS MiB':>9}{'json: CPU ms':>14}{'RSS MiB':>9}")
    for count in (options.findings, 10 * options.findings):
        for kind, (module, make) in (REPORTS | TEXTS).items():
            file = folder / f"{kind}.report"
            file.write_bytes(make(count))
            imports = OURS.format(module=module)
            spent, rss = read(options.python, imports, f"merged({module}.{kind}(data))", file)
            line = (
                f"{kind:<10}{file.stat().st_size / 1e6:>6.1f}{spent / count * 1e6:>16.1f}{rss / 2**20:>9.1f}"
            )
            if kind in REPORTS:
                spent, rss = read(options.python, "import json", "json.loads(data)", file)
                line += f"{spent / count * 1e6:>14.1f}{rss / 2**20:>9.1f}"
            print(line, flush=True)


def in_the_daemon(folder: Path, options: argparse.Namespace) -> None:
    file = folder / "trivy.json"
    size, count = 0, 1000
    while size < 20_000_000:
        count = count * 20_000_000 // size + 100 if size else count
        data = trivy(count)
        size = len(data)
    file.write_bytes(data)
    for severity in ("high", "low"):
        gate = folder / f"gate-{severity}"
        with Device(folder / severity, options.python) as device:
            command = f"test -e {gate} && cat {file} || echo '[]'"
            check = {"VULNSCAN_FORMAT": "trivy", "VULNSCAN_COMMAND": command, "VULNSCAN_SPLAY": "0"}
            device.check("vulnscan", "trivy", **check)
            device.start(1)
            time.sleep(5)
            before = cost(device.pid)
            gate.touch()
            newest = device.newest()
            file_ = device.etc / "monitor.d/available/vulnscan_trivy.sh"
            file_.write_text(f"{file_.read_text()}VULNSCAN_SEVERITY={severity}\nVULNSCAN_UNRATED=no\n")
            device.wait_for_alert(newest, 120)
            time.sleep(10)
            spent = cost(device.pid).since(before)
            print(
                f"\na report of {size / 1e6:.1f} MB, {count} vulnerabilities, those from {severity} on count:"
            )
            rss = f"RSS of the daemon {before.rss / 2**20:.1f} MiB before, {spent.rss / 2**20:.1f} MiB after"
            print(f"{rss}; {spent.cpu:.3f} CPU s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--findings", type=int, default=1000)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        reading(Path(name), options)
        in_the_daemon(Path(name), options)


if __name__ == "__main__":
    main()
