"""What each tier runs and listens on, and who takes its writes, whether it has one host or several."""

import shlex

import pytest

from verify import TOPOLOGY, contract, node

PATRONI = contract("tier_roles.postgresql") == "patroni"
REPLICATED = len(TOPOLOGY.hosts("redis")) > 1
CLUSTERED = len(TOPOLOGY.hosts("rabbitmq")) > 1
# Whether a host of data may be missed.
SEVERAL = len(TOPOLOGY.hosts("postgresql")) > 1
several = pytest.mark.skipif(not SEVERAL, reason="nobody has what a host of data has here: molecule/ha runs it")
# Whether the backups have a host of their own.
KEPT_ELSEWHERE = "backup" in TOPOLOGY.groups

# By group, with `.service` and `.socket`; systemctl stop and start of the tier's own mean all of the tier.
UNITS = {
    "backup": ["pgbackrest.service"],
    "etcd": ["etcd.service"],
    "postgresql": [contract("database_unit"), *(["pgbackrest.service"] if KEPT_ELSEWHERE else [])],
    "redis": [
        *("redis-server@results.service", "redis-server@cache.service"),
        *(["redis-sentinel@quintet.service"] if REPLICATED else []),
    ],
    "rabbitmq": ["rabbitmq-server.service"],
    "edge": ["haproxy.service", "keepalived.service"],
    "web": [
        *("haproxy.service", "nginx.service"),
        *("gunicorn-producer.service", "gunicorn-producer.socket", "relay-producer.service"),
    ],
    "worker": ["haproxy.service", "celery-service.service", "celery-producer.service"],
}


def units(host):
    """The units of a host, in alphabetical order."""
    return sorted({unit for group in contract("group_names", host) for unit in UNITS.get(group, [])})


def states(host):
    """The states of a host's units, each once: the exit status of systemctl is about any of them, not about all."""
    return set(node(host).run(f"systemctl is-active {' '.join(units(host))}").stdout.split())


def sockets(host):
    """What a host listens on for its tiers, as (address, port)."""
    everywhere, loopback, own = contract("listen_addresses", host), "127.0.0.1", contract("host_address", host)
    among = {loopback, own} if CLUSTERED else {loopback}
    proxies = {(contract("proxy_address"), proxy["port"]) for proxy in contract("proxies", host)}
    redis = ["result_backend_port", "cache_port", *(["sentinel_port"] if REPLICATED else [])]
    found = {
        "backup": {(own, contract("backup_port"))},
        "etcd": {(own, contract(port)) for port in ("etcd_client_port", "etcd_peer_port")} if PATRONI else set(),
        "postgresql": {(address, contract("database_port")) for address in everywhere}
        | ({(own, contract("patroni_api_port"))} if PATRONI else set())
        | ({(own, contract("backup_port"))} if KEPT_ELSEWHERE else set()),
        "redis": {(address, contract(port)) for address in everywhere for port in redis},
        "rabbitmq": {(address, contract("broker_tls_port")) for address in everywhere}
        | {(own, contract("broker_management_port"))}
        | {(address, 4369) for address in among}
        | {(own if CLUSTERED else loopback, 25672)},
        "edge": {("0.0.0.0", port) for port in contract("edge_ports")},
        "web": {*(("0.0.0.0", port) for port in contract("site_ports")), *proxies},
        "worker": proxies,
    }
    return set().union(*(found[group] for group in contract("group_names", host) if group in found))


def sql(host, query, database="postgres"):
    """What a host's PostgreSQL answers to the system's user postgres."""
    words = f"psql -p {contract('database_port')} -XtAc {shlex.quote(query)} {database}"
    return node(host).check_output(f"su postgres -c {shlex.quote(words)}")


def database_host():
    """The host whose PostgreSQL takes writes."""
    [host] = [host for host in TOPOLOGY.hosts("postgresql") if sql(host, "SELECT pg_is_in_recovery()") == "f"]
    return host
