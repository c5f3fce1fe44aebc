"""How long a deploy takes as hosts are added, all of them containers on this one machine.

Each topology is deployed from nothing, and again; then workers are added to `quintet`, each time by one deploy, until
there are 25 (WORKERS, numbers with commas between). Prints a table in Markdown. It has no goal: hosts with processors
of their own do at once what these do in turn.
"""

import os
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from bench.deploy import playbook  # noqa: E402

OVERLAY = "inventories/containers.yml"
# Beside the others, as its group_vars are theirs; it is removed in the end.
GROWING = Path("inventories/growing.yml")
WORKERS = [int(number) for number in os.environ.get("WORKERS", "1,5,10,25").split(",")]


def measured(what, hosts, sources, before):
    """Create what is missing, deploy, deploy again; prints a line."""
    playbook("nodes/create", sources=sources)
    took, again = (playbook("deploy", sources=sources) for _ in range(2))
    print(
        f"| {what} | {hosts} | {hosts - before} | {took:.0f} | {took / (hosts - before):.1f} | {again:.0f} |",
        flush=True,
    )


def count(inventory):
    """How many hosts there are."""
    return len({host for group in inventory["all"]["children"].values() for host in all_hosts(group)})


def all_hosts(group):
    """The hosts of a group and of those in it."""
    yield from group.get("hosts") or {}
    for child in (group.get("children") or {}).values():
        yield from all_hosts(child)


def main():
    print(
        "| topology | hosts | of them new | seconds | a new host | again |\n| --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for name in ("onebox", "quintet", "ha"):
        sources = (f"inventories/{name}.yml", OVERLAY)
        try:
            measured(f"`{name}`", count(yaml.safe_load((ROOT / sources[0]).read_text())), sources, before=0)
        finally:
            playbook("nodes/destroy", sources=sources)
    sources, before = (str(GROWING), OVERLAY), 0
    quintet = yaml.safe_load((ROOT / "inventories/quintet.yml").read_text())
    try:
        for workers in WORKERS:
            quintet["all"]["children"]["worker"]["hosts"] = {f"worker{number + 1}": None for number in range(workers)}
            # Those that are new come last: a container's address follows from its place.
            (ROOT / GROWING).write_text(yaml.safe_dump(quintet, sort_keys=False))
            hosts = count(quintet)
            measured(f"`quintet`, {workers} workers", hosts, sources, before)
            before = hosts
    finally:
        if (ROOT / GROWING).exists():
            playbook("nodes/destroy", sources=sources)
            (ROOT / GROWING).unlink()


if __name__ == "__main__":
    main()
