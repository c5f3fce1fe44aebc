"""Shows that the faults can fail: takes away one protection at a time, and injects what it protects against.

By hand, on an `ha` that is deployed and may be spoilt: make chaos-controls. Ends with 1 if the checker did not notice.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from verify import TOPOLOGY, controls, together
from verify.chaos import cluster
from verify.chaos.faults import NAMED
from verify.chaos.run import under_load, whole

# Most controls change what is whole, so that nobody waits for that.
PATIENCE_SECONDS = 30
# Until what was restarted has done each of its things once, as what was up for long has.
SETTLED_SECONDS = 15


@dataclass
class Control:
    """A protection, the hosts that have it, the commands that take it and give it back, and the fault that needs it."""

    protection: str
    hosts: list
    spoil: str
    mend: str
    fault: str
    restores: bool = False  # whether what it protects is that the stack becomes whole again
    work_seconds: int = 1  # of every fourth job

    def missed(self, directory):
        """Whether the checker finds something wrong without the protection."""
        whole()
        together(self.hosts, self.spoil)
        goal = NAMED[self.fault].goal
        try:
            seconds = goal.restored if self.restores else PATIENCE_SECONDS
            found = under_load(
                NAMED[self.fault], directory, seconds=seconds, calm=SETTLED_SECONDS, work_seconds=self.work_seconds
            )
        finally:
            together(self.hosts, self.mend)
        missed = [one for one in goal.missed(found) if self.restores or not one.startswith("restored")]
        print(
            f"without {self.protection}: {self.fault} {'MISSES NOTHING' if not missed else '; '.join(missed)}",
            flush=True,
        )
        return bool(missed)


def known(protection, group, fault, **more):
    """One of the controls of other topologies, on each host of a group."""
    [one] = [one for one in controls.CONTROLS if one.protection == protection]
    return Control(protection, TOPOLOGY.hosts(group), one.spoil, one.mend, fault, **more)


def agreed(**settings):
    """The command for each member of PostgreSQL that changes what they agree on."""
    words = " ".join(f"--set {name}={value}" for name, value in settings.items())
    change = f"patronictl -c /etc/patroni/config.yml edit-config --force --quiet {words}"
    return f"{{ [ $(hostname) != {cluster.DATABASES[0]} ] || {change}; }} && sleep 10"


# Applications' HAProxy asks a member of PostgreSQL no more than whether its port is open. Asking RabbitMQ no more is
# not noticed: who is led to a node that hangs stays there, and the next ones go where fewer are (`balance leastconn`).
PORT_ONLY = """
/^listen postgresql/,/^$/ { /httpchk|http-check/d; s/ check-sni / no-check-ssl check-sni /; s/ port [0-9]+// }
"""
HAPROXY, ARCHIVE = "/etc/haproxy/haproxy.cfg", "/usr/bin/pgbackrest"
# What a deploy does that writes Sentinel's file from a template, after the master has moved: it names the one from
# before, and nobody else.
SENTINEL, LEARNT = "/var/lib/redis/sentinel.conf", "^sentinel (known-|config-epoch|leader-epoch|current-epoch)"
STOP, START = (f"systemctl {verb} redis-sentinel@quintet" for verb in ("stop", "start"))
TEMPLATED = f"""
grep -vE '{LEARNT}' {SENTINEL} > {SENTINEL}.first && chown --reference={SENTINEL} {SENTINEL}.first
[ $(hostname) != {cluster.STORES[0]} ] || {cluster.sentinel_cli("FAILOVER", "results")}
sleep 20 && {STOP} && mv {SENTINEL} {SENTINEL}.whole && mv {SENTINEL}.first {SENTINEL} && {START}
"""

CONTROLS = [
    # A leader that gives up puts all that it has into the backups, where the next one finds it: without these.
    Control(
        "synchronous replication", cluster.DATABASES,
        f"mv {ARCHIVE} {ARCHIVE}.whole && ln -s /bin/false {ARCHIVE} && "
        + agreed(synchronous_mode="off", synchronous_mode_strict="false"),
        f"mv {ARCHIVE}.whole {ARCHIVE} && " + agreed(synchronous_mode="quorum", synchronous_mode_strict="true"),
        "leader-without-peers",
    ),
    known("confirms", "web", "rabbitmq-dies-frozen"),
    # Who is only killed still ends what its processes are at.
    known("late acks", "worker", "worker-host-killed", work_seconds=3),
    known("the record of executions", "worker", "rabbitmq-frozen-everywhere"),
    Control(
        "questions in the service's own protocol", [*TOPOLOGY.hosts("web"), *TOPOLOGY.hosts("worker")],
        f"cp -p {HAPROXY} {HAPROXY}.whole && sed -Ei {quote(PORT_ONLY)} {HAPROXY} && systemctl reload haproxy",
        f"mv {HAPROXY}.whole {HAPROXY} && systemctl reload haproxy",
        "postgresql-frozen",
    ),
    Control(
        "files that belong to Sentinel", cluster.STORES, TEMPLATED,
        f"{STOP} && mv {SENTINEL}.whole {SENTINEL} && {START}",
        "redis-frozen", restores=True,
    ),
]  # fmt: skip


if __name__ == "__main__":
    chosen = [control for control in CONTROLS if not sys.argv[1:] or control.protection in sys.argv[1:]]
    detected = [control.missed(Path(tempfile.mkdtemp(prefix="quintet-"))) for control in chosen]
    print(f"controls detected {sum(detected)} of {len(detected)}")
    sys.exit(not all(detected))
