"""The faults: who, what, for how long, and what may be noticed of it. A few primitives, and the rest is a table."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from verify import TOPOLOGY, container, contract, together
from verify.chaos import cluster
from verify.check import Goal

# -- Primitives -------------------------------------------------------------------------------------------------------
# Each begins and ends on hosts, on all of them at the same time.


@dataclass(frozen=True)
class Shell:
    """Commands on the hosts, who have `$network`, and the addresses of `$others` and, in their group, of `$peers`.

    What has a secret in it is a function, since reading a secret makes it where there is none.
    """

    first: str | Callable[[], str]
    last: str = "true"

    def begin(self, fault, hosts, chance):
        """Do it."""
        self._run(self.first, fault, hosts)

    def end(self, fault, hosts, chance):
        """Undo it."""
        self._run(self.last, fault, hosts)

    def _run(self, command, fault, hosts):
        def addresses(group):
            return ", ".join(contract("host_address", host) for host in TOPOLOGY.hosts(group) if host not in hosts)

        words = f"network={contract('node_network')}.0/24; others='{addresses('all')}'; "
        words += f"peers='{addresses(fault.tier)}'; "
        together(hosts, words + (command() if callable(command) else command))


class Power:
    """Hosts without power. Their disks stay; they come back in any order."""

    def begin(self, fault, hosts, chance):
        """Kill each process of theirs."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: container(host).kill(), hosts))

    def end(self, fault, hosts, chance):
        """Boot."""
        for host in chance.sample(hosts, len(hosts)):
            container(host).start()


def killed(unit):
    """Its main process, by SIGKILL."""
    return Shell(f"systemctl kill --kill-whom main --signal KILL {unit}")


def frozen(unit):
    """All its processes, by SIGSTOP: what it listens on still accepts."""
    return Shell(f"systemctl kill --signal STOP {unit}", f"systemctl kill --signal CONT {unit}")


def stopped(*units):
    """Stopped in order, by systemd."""
    return Shell(f"systemctl stop {' '.join(units)}", f"systemctl start --no-block {' '.join(units)}")


def cut(*directions, to="$network", when=""):
    """Off the network, or off some: nobody is told. `in` is what a host hears, `out` what it says."""
    hooks = {"in": ("input", "iifname", "saddr"), "out": ("output", "oifname", "daddr")}
    table = ""
    for direction in directions:
        hook, device, address = hooks[direction]
        rules = f"{device} lo accept; ip {address} {{ {to} }} {when} drop"
        table += f"chain {direction} {{ type filter hook {hook} priority -300; {rules}; }}; "
    return Shell(f'nft "table inet chaos {{ {table} }}"', "nft delete table inet chaos")


def unplugged():
    """Off the network, and without an answer to who has which address: a host that is only `cut` off goes on saying
    that the one of all edges is its own.
    """
    silent = cut("in", "out")
    chains = "".join(f"chain {hook} {{ type filter hook {hook} priority 0; drop; }}; " for hook in ("input", "output"))
    return Shell(
        f'{silent.first} && nft "table arp chaos {{ {chains} }}"', f"nft delete table arp chaos; {silent.last}"
    )


def moved(directory, unit, spare_mb):
    """A directory on a file system in memory, which has so much more space than it needs: one disk is all there is."""
    aside = f"{directory}.aside"
    size = f"$(($(du -sm {aside} | cut -f1) + {spare_mb}))m"
    mount = f"mount -t tmpfs -o size={size} tmpfs {directory} && chown --reference={aside} {directory}"
    there = f"mv {directory} {aside} && mkdir -m 700 {directory} && {mount} && cp -a {aside}/. {directory}"
    back = f"rm -rf {aside} && cp -a {directory} {aside} && umount {directory} && rmdir {directory}"
    stop, start = f"systemctl stop {unit}", f"systemctl start {unit}"
    return Shell(
        f"{stop} && {there} && chmod 700 {directory} && {start}",
        f"{stop} && {back} && mv {aside} {directory} && {start}",
    )


def full(directory):
    """Its file system, of which the last byte is taken. Only with `moved`."""
    take = f"findmnt -nt tmpfs {directory} && ! dd if=/dev/zero of={directory}/chaos bs=1M"
    return Shell(take, f"rm -f {directory}/chaos")


def lossy(percent):
    """That part of all packets is lost, both ways. The kernel's own way to do this, netem, is often not there."""
    return cut("in", "out", when=f"numgen random mod 100 < {percent}")


# -- Declarations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """`who` is `leader`, `follower`, `any` or `all` `of` a group; or several such, as a tuple.

    With `apart` it does not lead that tier as well: what happens to it there is another fault. With `volume` its data
    is on a small file system of its own.
    """

    name: str
    who: str | tuple
    what: Shell | Power
    seconds: float
    goal: Goal
    apart: str = ""
    volume: Shell | None = None

    @property
    def tier(self):
        """Of the first who."""
        who = self.who if isinstance(self.who, str) else self.who[0]
        return who.split(" of ")[1]

    @contextlib.contextmanager
    def prepared(self, whole):
        """A stack to which this can happen; `whole` waits for the end of each change that this takes."""
        whole()
        if self.apart and cluster.leader(self.tier) == cluster.leader(self.apart):
            cluster.switch(cluster.leader(self.apart))
            whole()
        if not self.volume:
            yield
            return
        first = cluster.leader(self.tier)
        host = next(host for host in TOPOLOGY.hosts(self.tier) if host != first)
        self.volume.begin(self, [host], None)
        try:
            whole()
            cluster.switch(first, host)
            whole()
            yield
        finally:
            self.volume.end(self, [host], None)

    def hosts(self, chance):
        """Who it is just now."""
        found = []
        for who in [self.who] if isinstance(self.who, str) else self.who:
            how, tier = who.split(" of ")
            members = TOPOLOGY.hosts(tier)
            if how in ("leader", "follower"):
                first = cluster.leader(tier)
                members = [host for host in members if (host == first) == (how == "leader")]
            found += members if how == "all" else [chance.choice(members)]
        return found


DATA = f"/var/lib/postgresql/{contract('database_version')}/quintet"
KILL_POSTMASTER = Shell(f"kill -KILL $(head -1 {DATA}/postmaster.pid)")
FAILOVERS = Shell(lambda: f"for time in 1 2 3 4 5; do {cluster.sentinel_cli('FAILOVER', 'results')} sleep 4; done")
REDIS = "redis-server@results redis-server@cache"
UNNOTICED, AGAIN = Goal(raw=0), Goal(retried=0)
# A process of PostgreSQL's leader; its host; what only delays tasks; the edge; a data host that leads nothing.
PROCESS, HOST, TASKS, MOVES = Goal(gap=10), Goal(gap=25), Goal(raw=0, delay=10), Goal(gap=3)
SECONDS = 15

FAULTS = [
    # A daemon is killed, and systemd starts it again.
    Fault("postgresql-killed", "leader of postgresql", KILL_POSTMASTER, 0, PROCESS),
    Fault("postgresql-follower-killed", "follower of postgresql", KILL_POSTMASTER, 0, PROCESS),
    Fault("patroni-killed", "leader of postgresql", killed("patroni"), 0, PROCESS),
    Fault("etcd-killed", "leader of etcd", killed("etcd"), 0, UNNOTICED),
    Fault("etcd-follower-killed", "follower of etcd", killed("etcd"), 0, UNNOTICED),
    Fault("rabbitmq-killed", "leader of rabbitmq", killed("rabbitmq-server"), 0, TASKS),
    Fault("rabbitmq-follower-killed", "follower of rabbitmq", killed("rabbitmq-server"), 0, TASKS),
    Fault("redis-killed", "leader of redis", killed(REDIS), 0, UNNOTICED),
    Fault("redis-follower-killed", "follower of redis", killed(REDIS), 0, UNNOTICED),
    Fault("sentinel-killed", "leader of redis", killed("redis-sentinel@quintet"), 0, UNNOTICED),
    Fault("keepalived-killed", "leader of edge", killed("keepalived"), 0, MOVES),
    Fault("edge-killed", "leader of edge", killed("haproxy"), 0, MOVES),
    Fault("nginx-killed", "any of web", killed("nginx"), 0, AGAIN),
    Fault("gunicorn-killed", "any of web", killed("gunicorn-producer"), 0, AGAIN),
    Fault("haproxy-killed", "any of web", killed("haproxy"), 0, AGAIN),
    Fault("relay-killed", "any of web", killed("relay-producer"), 0, TASKS),
    Fault("worker-killed", "any of worker", killed("celery-service celery-producer"), 0, UNNOTICED),
    # A daemon hangs: whoever only asks if its port is open does not notice.
    Fault("postgresql-frozen", "leader of postgresql", frozen("patroni"), 30, HOST),
    Fault("etcd-frozen", "leader of etcd", frozen("etcd"), SECONDS, UNNOTICED),
    Fault("rabbitmq-frozen", "leader of rabbitmq", frozen("rabbitmq-server"), 30, Goal(raw=0, delay=20)),
    Fault("redis-frozen", "leader of redis", frozen(REDIS), SECONDS, UNNOTICED),
    Fault("edge-frozen", "leader of edge", frozen("haproxy"), SECONDS, Goal(gap=10)),
    Fault("gunicorn-frozen", "any of web", frozen("gunicorn-producer"), SECONDS, AGAIN),
    Fault("worker-frozen", "any of worker", frozen("celery-service celery-producer"), SECONDS, UNNOTICED),
    # A host is lost, and comes back.
    Fault("postgresql-host-killed", "leader of postgresql", Power(), 30, HOST),
    Fault("rabbitmq-host-killed", "leader of rabbitmq", Power(), 30, TASKS, apart="postgresql"),
    Fault("redis-host-killed", "leader of redis", Power(), 30, UNNOTICED, apart="postgresql"),
    Fault("edge-host-killed", "leader of edge", Power(), SECONDS, MOVES),
    Fault("web-host-killed", "any of web", Power(), SECONDS, AGAIN),
    Fault("worker-host-killed", "any of worker", Power(), 30, UNNOTICED),
    # A host is cut off, or hears and is not heard, or the other way round.
    Fault("postgresql-host-cut-off", "leader of postgresql", cut("in", "out"), 40, HOST),
    Fault("postgresql-host-deaf", "leader of postgresql", cut("in"), 40, HOST),
    Fault("postgresql-host-mute", "leader of postgresql", cut("out"), 40, HOST),
    Fault("rabbitmq-host-cut-off", "leader of rabbitmq", cut("in", "out"), 30, TASKS, apart="postgresql"),
    Fault("edge-host-cut-off", "leader of edge", unplugged(), SECONDS, MOVES),
    Fault("web-host-cut-off", "any of web", cut("in", "out"), SECONDS, AGAIN),
    Fault("worker-host-cut-off", "any of worker", cut("in", "out"), 30, UNNOTICED),
    # The network falls apart. Applications reach whom they know best, who must not promise what the others do not have.
    Fault("leader-without-peers", "leader of postgresql", cut("in", "out", to="$peers"), 40, HOST),
    Fault(
        "leader-in-the-minority", ("leader of postgresql", "any of web", "any of worker"),
        cut("in", "out", to="$others"), 40, HOST,
    ),
    Fault(
        "leader-in-the-majority", ("follower of postgresql", "any of web", "any of worker"),
        cut("in", "out", to="$others"), 40, HOST,
    ),
    Fault("lossy", "leader of postgresql", lossy(10), 30, Goal()),
    # More than any one.
    Fault("redis-down", "all of redis", stopped(*REDIS.split()), 30, UNNOTICED),
    Fault("rabbitmq-down", "all of rabbitmq", stopped("rabbitmq-server"), 300, UNNOTICED),
    Fault("rabbitmq-frozen-everywhere", "all of rabbitmq", frozen("rabbitmq-server"), SECONDS, UNNOTICED),
    # What was sent meanwhile is in the kernel's buffers, and is lost.
    Fault(
        "rabbitmq-dies-frozen", "all of rabbitmq",
        Shell(frozen("rabbitmq-server").first, killed("rabbitmq-server").first), SECONDS, UNNOTICED,
    ),
    Fault("sentinel-failovers", "leader of redis", FAILOVERS, 0, UNNOTICED),
    Fault(
        "postgresql-disk-full", "leader of postgresql", full(DATA), 20, Goal(), volume=moved(DATA, "patroni", 150),
    ),
    Fault(
        "disk-alarm", "leader of rabbitmq",
        Shell("rabbitmqctl set_disk_free_limit 100000GB", "rabbitmqctl set_disk_free_limit 1GB"), SECONDS, UNNOTICED,
    ),
    Fault("everything-killed", "all of all", Power(), 5, Goal(gap=180, restored=180)),
]  # fmt: skip
SHORT = ["postgresql-killed", "etcd-killed", "rabbitmq-killed", "redis-killed", "postgresql-host-killed"]
NAMED = {fault.name: fault for fault in FAULTS}
