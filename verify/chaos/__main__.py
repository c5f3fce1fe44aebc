"""Faults on a deployed stack, one after the other, under load.

A FAULT is a name or a pattern such as 'postgresql-*'; without any, all of them. The order, and what is chosen by
chance, follow from the seed. Prints a line for each, and writes the report and the logs into .cache/chaos/. Ends with 1
if a goal is missed.
"""

import argparse
import fnmatch
import json
import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import asdict

from tests.topology import ROOT
from verify import TOPOLOGY
from verify.chaos import cluster
from verify.chaos.faults import FAULTS
from verify.chaos.run import LOAD, NeverWhole, run

PACKAGES = "postgresql-17 patroni etcd-server rabbitmq-server erlang-base redis-server haproxy keepalived nginx systemd"
ASK = f"dpkg-query -W -f '${{Package}} ${{Version}}\\n' {PACKAGES} 2>/dev/null || true"
COLUMNS = {
    "fault": 26, "hosts": 18, "gap s": 7, "failed": 9, "retried": 8, "slowest s": 10, "delay s": 8,
    "lost": 5, "twice": 6, "whole after s": 14, "goal": 0,
}  # fmt: skip


def versions():
    """What it was tried on."""
    found = cluster.on(TOPOLOGY.hosts(), ASK)
    packages = {line for text in found.values() for line in text.splitlines() if line.split()[1:]}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    return {
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {memory} GiB, Linux {platform.release()}, {len(found)} containers",
        "packages": sorted(packages),
    }


def number(value):
    """As short as it means something."""
    return "never" if value is None else f"{value:.1f}"


def cells(fault, found):
    """A row of the table."""
    hosts = "all" if len(found.hosts) > 3 else " ".join(found.hosts)
    failed = f"{found.raw}/{found.requests}"
    first = [fault.name, hosts, number(found.gap), failed, found.retried, number(found.slowest), number(found.delay)]
    missed = fault.goal.missed(found)
    last = [number(found.restored), f"MISSED: {'; '.join(missed)}" if missed else "met"]
    return [str(cell) for cell in (*first, len(found.lost), len(found.duplicated), *last)]


def markdown(report, rows):
    """The report, to be read."""
    lines = [f"Seed {report['seed']}; {report['machine']}; commit {report['commit']}.", ""]
    lines += [f"| {' | '.join(row)} |" for row in ([*COLUMNS], ["---"] * len(COLUMNS), *rows)]
    return "\n".join([*lines, "", f"Per second: {report['load']}. {', '.join(report['packages'])}.", ""])


def main():
    parser = argparse.ArgumentParser(
        "python -m verify.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--times", type=int, default=1, help="each fault so often")
    parser.add_argument("patterns", nargs="*", metavar="FAULT")
    given = parser.parse_args()
    names = [fault.name for fault in FAULTS]
    matching = {pattern: fnmatch.filter(names, pattern) for pattern in given.patterns or ["*"]}
    if unknown := [pattern for pattern, found in matching.items() if not found]:
        sys.exit(f"There is no fault {unknown[0]!r}. There are: {', '.join(names)}.")
    wanted = set().union(*matching.values())
    chosen = [fault for fault in FAULTS if fault.name in wanted] * given.times
    random.Random(given.seed).shuffle(chosen)
    directory = ROOT / ".cache" / "chaos" / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{given.seed}"
    directory.mkdir(parents=True)
    report = {"seed": given.seed, "load": LOAD, **versions(), "faults": []}
    print(f"seed {given.seed}, {report['machine']}, {directory.relative_to(ROOT)}")
    print("".join(name.ljust(width) for name, width in COLUMNS.items()), flush=True)
    rows, failure = [], None
    for count, fault in enumerate(chosen):
        try:
            found = run(fault, directory, given.seed + count)
        except NeverWhole as exc:
            failure = f"{fault.name} could not begin: {exc}"
            break
        rows.append(cells(fault, found))
        print("".join(text.ljust(width) for text, width in zip(rows[-1], COLUMNS.values(), strict=True)), flush=True)
        report["faults"].append({"name": fault.name, "missed": fault.goal.missed(found), **asdict(found)})
        (directory / "report.json").write_text(json.dumps(report, indent=1))
        (directory / "report.md").write_text(markdown(report, rows))
    missed = [one for one in report["faults"] if one["missed"]]
    sys.exit(failure or (f"{len(missed)} of {len(rows)} missed a goal" if missed else 0))


if __name__ == "__main__":
    main()
