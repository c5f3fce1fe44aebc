"""PostgreSQL on several hosts, and etcd: what the contract gives them, and what the roles make of it."""

import shlex

import pytest
import yaml

from tests.samples import SECRETS
from tests.test_templates import MONITOR, PEER, UNITS, evaluated, lines, render, unit
from tests.topology import ROOT

DATA = {"data1": "10.213.134.10", "data2": "10.213.134.11", "data3": "10.213.134.12"}
WEB, WORKERS = ["10.213.134.15", "10.213.134.16"], ["10.213.134.17", "10.213.134.18"]
NAMES = [f"{host}.quintet.internal" for host in DATA]
IDENTITY, AUTHORITIES = "/etc/patroni/identity.pem", "/etc/patroni/authorities.pem"


# -- Contract ---------------------------------------------------------------------------------------------------------


def test_a_host_is_known_by_its_address_to_itself_too(ha):
    names = ha.render("data1", "base_names")
    assert {name: names[name] for name in NAMES} == dict(zip(NAMES, DATA.values(), strict=True))
    assert ha.render("web1", "base_names")["postgresql.quintet.internal"] == "127.0.1.10"


@pytest.mark.parametrize("host", DATA)
def test_who_reaches_the_hosts_of_data(ha, host):
    peers = [address for name, address in DATA.items() if name != host]
    rules = {rule["port"]: sorted(rule["sources"]) for rule in ha.render(host, "open_ports")}
    assert {port: rules[port] for port in (2379, 2380, 5432, 8008)} == {
        2379: peers,
        2380: peers,
        5432: peers + WEB + WORKERS,
        8008: peers + WEB + WORKERS,
    }


def test_names_of_certificates(ha):
    names = ha.render("data1", "host_certificates")
    assert {"etcd.quintet.internal", "postgresql.quintet.internal"} < set(names["data2"])
    # The first is the common name, by which members know each other.
    assert names["data2"][0] == "data2.quintet.internal"
    assert not [
        one for host in ("web1", "worker1", "edge1") for one in names[host] if "etcd" in one or "postgres" in one
    ]


def test_applications_speak_with_who_leads(ha):
    [service] = [one for one in ha.render("web1", "proxies") if one["name"] == "postgresql.quintet.internal"]
    assert service == {
        "name": "postgresql.quintet.internal",
        "port": 5432,
        "tls": False,
        "servers": [{"name": host, "address": address, "port": 5432} for host, address in DATA.items()],
        "check": "port 8008 fall 3",
        "options": ["timeout check 2s", "option httpchk OPTIONS /primary", "http-check expect status 200"],
    }
    text = render(ha, "haproxy/haproxy.cfg.j2", "web1")[0]
    [line] = [line for line in lines(text) if line.strip().startswith("server data2 10.213.134.11:5432 ")]
    assert " check-ssl verify required " in line
    assert line.endswith(" check check-sni postgresql.quintet.internal port 8008 fall 3")


def test_the_distribution_makes_no_cluster(ha):
    assert {file["path"]: file["content"] for file in ha.render("data1", "base_files")} == {
        "/etc/postgresql-common/createcluster.d/quintet.conf": "create_main_cluster = false\n"
    }
    assert ha.render("web1", "base_files") == []
    assert {"etcd-server", "patroni", "postgresql-17", "python3-etcd"} < set(ha.render("data1", "host_packages"))


# -- etcd -------------------------------------------------------------------------------------------------------------


def test_etcd(ha):
    [text] = render(ha, "etcd/quintet.yml.j2", "data2")
    tls = {
        "cert-file": "/etc/etcd/identity.pem",
        "key-file": "/etc/etcd/identity.pem",
        "trusted-ca-file": "/etc/etcd/authorities.pem",
        "client-cert-auth": True,
    }
    assert yaml.safe_load(text) == {
        "name": "data2",
        "data-dir": "/var/lib/etcd/default",
        "listen-client-urls": "https://10.213.134.11:2379",
        "listen-peer-urls": "https://10.213.134.11:2380",
        "advertise-client-urls": "https://data2.quintet.internal:2379",
        "initial-advertise-peer-urls": "https://data2.quintet.internal:2380",
        "initial-cluster": ",".join(f"{host}=https://{host}.quintet.internal:2380" for host in DATA),
        "initial-cluster-state": "new",
        "initial-cluster-token": "quintet",
        "client-transport-security": tls,
        "peer-transport-security": tls | {"allowed-hostname": ["etcd.quintet.internal"]},
        "tls-min-version": "TLS1.3",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "quota-backend-bytes": 1024**3,
        "enable-grpc-gateway": True,
        "enable-v2": False,
        "logger": "zap",
        "log-level": "warn",
    }


def test_etcd_admits_every_certificate_where_no_name_is_asked_for(ha):
    [text] = render(ha, "etcd/quintet.yml.j2", etcd_peer_name="")
    assert "allowed-hostname" not in text


def test_etcd_is_led_elsewhere_than_what_it_keeps_the_lock_of(ha):
    assert ha.render("data2", "etcd_yields_to") == "https://data2.quintet.internal:8008/primary"
    assert evaluated(ha, "etcd", "__etcd_yield_files", etcd_yields_to="") == []
    tool = evaluated(ha, "etcd", "__etcd_yield_files", host="data2")[0]
    assert tool["content"] == (ROOT / "roles/etcd/files/yield.py").read_text()
    [service] = render(ha, "etcd/quintet-etcd-yield.service.j2", "data2")
    identity = "/etc/etcd/identity.pem /etc/etcd/authorities.pem"
    assert (
        f"{identity} \\\n  https://data2.quintet.internal:2379 https://data2.quintet.internal:8008/primary\n" in service
    )


# -- Patroni ----------------------------------------------------------------------------------------------------------


def config(ha, host="data2", **more):
    return yaml.safe_load(render(ha, "patroni/config.yml.j2", host, **more)[0])


def test_patroni_shows_and_wants_certificates(ha):
    found = config(ha)
    assert found["etcd3"] == {
        "hosts": [f"{name}:2379" for name in NAMES],
        "protocol": "https",
        "cacert": AUTHORITIES,
        "cert": IDENTITY,
        "key": IDENTITY,
    }
    assert found["restapi"] == {
        "listen": "10.213.134.11:8008",
        "connect_address": "data2.quintet.internal:8008",
        "certfile": IDENTITY,
        "keyfile": IDENTITY,
        "cafile": AUTHORITIES,
        "verify_client": "required",
        "allowlist": list(DATA.values()),
    }
    for user, name in (("replication", "replicator"), ("rewind", "rewinder")):
        assert found["postgresql"]["authentication"][user] == {
            "username": name,
            "sslmode": "verify-full",
            "sslrootcert": AUTHORITIES,
            "sslcert": IDENTITY,
            "sslkey": IDENTITY,
        }
    assert found["postgresql"]["listen"] == "127.0.0.1,10.213.134.11:5432"
    assert found["postgresql"]["connect_address"] == "data2.quintet.internal:5432"
    # Not the distribution's cluster.
    assert found["postgresql"]["data_dir"] == "/var/lib/postgresql/17/quintet"
    assert "data-checksums" in found["bootstrap"]["initdb"]


def test_patroni_has_no_secret_in_its_configuration(ha):
    text = render(ha, "patroni/config.yml.j2")[0]
    assert not [value for value in SECRETS["database_passwords"].values() if value in text]
    assert "password:" not in text


def test_what_members_agree_on(ha):
    found = evaluated(ha, "patroni", "__patroni_dynamic")
    assert found["loop_wait"] + 2 * found["retry_timeout"] <= found["ttl"]
    assert (found["synchronous_mode"], found["synchronous_mode_strict"]) == ("quorum", True)
    assert found["postgresql"]["parameters"] == {"max_connections": 100}
    assert config(ha)["bootstrap"]["dcs"] == found
    alone = {"patroni_members": [{"name": "data1", "host": "x", "address": "192.0.2.1"}]}
    found = evaluated(ha, "patroni", "__patroni_dynamic", **alone)
    assert (found["synchronous_mode"], found["synchronous_mode_strict"]) == ("off", False)


def test_settings_go_where_patroni_takes_them_from(ha):
    more = {"patroni_settings": {"work_mem": "8MB", "max_wal_senders": 7}, "patroni_cluster_settings": {"ttl": 30}}
    found = config(ha, **more)
    assert found["postgresql"]["parameters"]["work_mem"] == "8MB"
    assert not {"max_wal_senders", "max_connections"} & found["postgresql"]["parameters"].keys()
    assert found["postgresql"]["parameters"]["archive_mode"] == "on", "what the topology wants is not lost"
    agreed = evaluated(ha, "patroni", "__patroni_dynamic", **more)
    assert agreed["postgresql"]["parameters"] == {"max_connections": 100, "max_wal_senders": 7}
    assert (agreed["ttl"], agreed["loop_wait"]) == (30, 1)


def test_what_postgresql_runs_with_is_what_it_runs_with_alone(ha, quintet):
    alone = evaluated(quintet, "postgresql", "__postgresql_settings", postgresql_memory_mb=512)
    found = evaluated(ha, "patroni", "__patroni_parameters", patroni_memory_mb=512)
    # A host alone is backed up (decision 21).
    own = {"listen_addresses", "port", "hba_file", "ssl_cert_file", "ssl_key_file"}
    own |= {"archive_mode", "archive_command", "archive_timeout"}
    assert {name: found[name] for name in alone.keys() - own} == {name: alone[name] for name in alone.keys() - own}


def test_patroni_admits_roles_from_their_hosts_and_members_by_their_certificates(ha):
    rules = [tuple(shlex.split(line)) for line in lines(render(ha, "patroni/pg_hba.conf.j2")[0])]

    def admitted(role, database, addresses):
        return {("hostssl", database, role, f"{address}/32", "scram-sha-256") for address in addresses}

    assert set(rules) == {
        PEER,
        ("local", "replication", "replicator", "peer", "map=members"),
        *(("hostssl", "replication", "replicator", f"{one}/32", "cert", "map=members") for one in DATA.values()),
        *(("hostssl", "postgres", "rewinder", f"{one}/32", "cert", "map=members") for one in DATA.values()),
        MONITOR,
        *admitted("producer", "producer", WEB + WORKERS),
        *admitted("producer_owner", "producer", WEB[:1]),
        *admitted("service", "service", WORKERS),
        *admitted("service_owner", "service", WORKERS[:1]),
    }
    assert len(rules) == len(set(rules))
    # As PostgreSQL reads them from Patroni.
    assert [tuple(shlex.split(rule)) for rule in config(ha)["postgresql"]["pg_hba"] if rule[0] != "#"] == rules
    names = [tuple(line.split()) for line in lines(render(ha, "patroni/pg_ident.conf.j2")[0])]
    assert set(names) == {
        ("members", "postgres", "replicator"),
        *(("members", name, user) for name in NAMES for user in ("replicator", "rewinder")),
    }


def test_patroni_does_not_kill_what_it_started(ha):
    found = unit(render(ha, "patroni/sandbox.conf.j2")[0])
    assert found["Service"]["OOMPolicy"] == "continue"
    # Not the distribution's, which needs a package more; it is taken away first.
    text = render(ha, "patroni/sandbox.conf.j2")[0]
    assert text.index("\nExecReload=\n") < text.index("\nExecReload=/bin/sh -c")


# -- Files ------------------------------------------------------------------------------------------------------------

FILES = {
    "etcd": {
        "/etc/etcd/identity.pem": {"group": "etcd", "mode": "0640", "secret": SECRETS["tls_identity"] + "\n"},
        "/etc/etcd/authorities.pem": {"content": "-- authority --\n"},
        "/etc/etcd/quintet.yml": {"content": "etcd/quintet.yml.j2"},
        f"{UNITS}/etcd.service.d/sandbox.conf": {"content": "etcd/sandbox.conf.j2"},
    },
    "patroni": {
        IDENTITY: {"group": "postgres", "mode": "0640", "secret": SECRETS["tls_identity"] + "\n"},
        AUTHORITIES: {"content": "-- authority --\n"},
        "/etc/patroni/config.yml": {"group": "postgres", "mode": "0640", "content": "patroni/config.yml.j2"},
        f"{UNITS}/patroni.service.d/sandbox.conf": {"content": "patroni/sandbox.conf.j2"},
        f"{UNITS}/patroni.service.d/limits.conf": {"content": "patroni/limits.conf.j2"},
    },
}


@pytest.mark.parametrize("role", FILES)
def test_files(ha, role):
    expected = [{"path": path, **file} for path, file in FILES[role].items()]
    for file in expected:
        if file.get("content", "").endswith(".j2"):
            file["content"] = render(ha, file["content"])[0]
    assert evaluated(ha, role, f"__{role}_files") == expected


def test_roles_of_the_cluster(ha):
    assert {role["name"]: role["password"] for role in evaluated(ha, "patroni", "__patroni_access")} == SECRETS[
        "database_passwords"
    ] | {"monitor": SECRETS["monitor_password"]}


# -- Backups ----------------------------------------------------------------------------------------------------------

LINK = {
    "type": "tls",
    "port": "8432",
    "cert-file": "/etc/pgbackrest/identity.pem",
    "key-file": "/etc/pgbackrest/identity.pem",
    "ca-file": "/etc/pgbackrest/authorities.pem",
}


def backups(ha, host):
    """The settings of pgBackRest on a host, by section; of a name that comes twice the values, in order."""
    found, section = {}, None
    for line in lines(render(ha, "pgbackrest/pgbackrest.conf.j2", host)[0]):
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif not line.startswith("#"):
            name, value = line.split("=", 1)
            section.setdefault(name, []).append(value)
    return {
        section: {name: ", ".join(values) for name, values in settings.items()} for section, settings in found.items()
    }


def linked(peer, name):
    return {peer: name} | {f"{peer}-{key}": value for key, value in LINK.items()}


def test_the_repository_has_a_host_of_its_own(ha):
    found = backups(ha, "edge2")
    stanza = found["ha"]
    for number, name in enumerate(NAMES, 1):
        assert linked(f"pg{number}-host", name).items() <= stanza.items()
        assert stanza[f"pg{number}-path"] == "/var/lib/postgresql/17/quintet"
    assert found["global"]["repo1-cipher-pass"] == SECRETS["backup_passphrase"]
    assert found["global"]["backup-standby"] == "prefer"
    assert found["global"]["tls-server-auth"] == ", ".join(f"{name}=ha" for name in NAMES)
    assert "global:archive-push" not in found


@pytest.mark.parametrize("host", DATA)
def test_hosts_of_postgresql_know_where_it_is_and_not_what_opens_it(ha, host):
    found = backups(ha, host)
    of_repository = {name: value for name, value in found["global"].items() if name.startswith("repo")}
    assert of_repository == linked("repo1-host", "edge2.quintet.internal")
    assert found["global"]["tls-server-address"] == DATA[host]
    assert found["global"]["tls-server-auth"] == "edge2.quintet.internal=ha"
    assert found["ha"] == {
        "pg1-path": "/var/lib/postgresql/17/quintet",
        "pg1-port": "5432",
        "pg1-socket-path": "/run/postgresql",
    }
    assert found["global:archive-push"] == {"io-timeout": "3"}
    assert SECRETS["backup_passphrase"] not in str(found)


def test_who_has_the_repository_makes_the_backups(ha):
    def units(host):
        return [one["name"] for one in evaluated(ha, "pgbackrest", "__pgbackrest_units", host=host)]

    timers = ["quintet-backup-full.timer", "quintet-backup-diff.timer"]
    assert units("edge2") == ["pgbackrest.service", *timers]
    assert units("data1") == ["pgbackrest.service"]


def test_the_log_of_a_cluster_goes_to_the_backups_and_comes_from_there(ha):
    parameters = config(ha)["postgresql"]["parameters"]
    assert (parameters["archive_mode"], parameters["archive_timeout"]) == ("on", "60s")
    assert parameters["archive_command"] == "pgbackrest --stanza=ha archive-push %p"
    assert parameters["restore_command"] == "timeout 3 pgbackrest --stanza=ha archive-get %f %p"


@pytest.mark.parametrize(
    ("host", "peers"), [("edge2", list(DATA.values())), *((host, ["10.213.134.14"]) for host in DATA)]
)
def test_who_reaches_the_backups(ha, host, peers):
    rules = {rule["port"]: sorted(rule.get("sources", [])) for rule in ha.render(host, "open_ports") if "port" in rule}
    assert rules[8432] == peers
    assert 8432 not in {rule.get("port") for rule in ha.render("edge1", "open_ports")}
