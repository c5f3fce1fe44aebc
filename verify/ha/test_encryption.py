"""What members of one tier say to each other: encrypted, by name, and heard from no one but hosts of ours."""

import shlex

import pytest

from verify import TOPOLOGY, contract, node
from verify.links import handshake, refused, wrong_certificates

# What only another host of the same tier may ask, by the name of its port.
MEMBERS = {
    "etcd_client": ("etcd", contract("etcd_client_port")),
    "etcd_peer": ("etcd", contract("etcd_peer_port")),
    "sentinel": ("redis", contract("sentinel_port")),
    "distribution": ("rabbitmq", 25672),
}


[REPOSITORY] = contract("repository_hosts")
PORT = contract("backup_port")
LINKS = [
    pytest.param(host, next(one for one in TOPOLOGY.hosts(group) if one != host), port, id=f"{name}-{host}")
    for name, (group, port) in MEMBERS.items()
    for host in TOPOLOGY.hosts(group)
]


@pytest.mark.parametrize(("host", "peer", "port"), LINKS)
def test_members_hear_only_hosts_of_ours(host, peer, port, tmp_path):
    link = (f"{host}.{contract('service_domain')}", host, port, True)
    own = contract("tls_identity", peer)
    seen = handshake(link, peer, identity=own)
    assert (seen["version"], seen["closed"]) == ("TLSv1.3", False)
    assert set(seen["names"]) == set(contract("host_certificates")[host])
    assert "Hostname mismatch" in handshake(link, peer, identity=own, name="other.quintet.internal")["refused"]
    for identity in ("", *wrong_certificates(peer, tmp_path).values()):
        assert refused(seen := handshake(link, peer, identity=identity)), seen


def repository(host, identity):
    """What the repository answers to a host of the database that shows this certificate."""
    stanza, file = contract("pgbackrest_stanza", host), "/run/postgresql/shown.pem"
    ask = f"pgbackrest --stanza={stanza} --repo1-host-cert-file={file} --repo1-host-key-file={file} --output=json info"
    # It takes no file that others could read.
    show = f"(umask 077 && printf %s {shlex.quote(identity)} >{file}) && {ask} 2>&1; rm -f {file}"
    return node(host).run(f"su postgres -c {shlex.quote(show)}").stdout


@pytest.mark.parametrize("host", TOPOLOGY.hosts("postgresql"))
def test_the_repository_answers_the_hosts_of_the_database(host):
    assert '"cipher":"aes-256-cbc"' in repository(host, contract("tls_identity", host))


def test_the_repository_answers_nobody_else(tmp_path):
    """A worker's certificate is by our authority and good; the firewall is not asked here."""
    host = TOPOLOGY.hosts("postgresql")[0]
    wrong = {"worker": contract("tls_identity", TOPOLOGY.hosts("worker")[0])} | wrong_certificates(host, tmp_path)
    for name, identity in wrong.items():
        said = repository(host, identity)
        assert '"db":[]' in said, name
        assert "access denied" in said or "TLS error" in said, said


@pytest.mark.parametrize(("host", "peer"), [(REPOSITORY, "data1"), ("data1", REPOSITORY)])
def test_the_backups_are_encrypted_on_their_way(host, peer):
    link = (f"{host}.{contract('service_domain')}", host, PORT, True)
    seen = handshake(link, peer, identity=contract("tls_identity", peer))
    assert (seen["version"], seen["closed"]) == ("TLSv1.3", False)
    assert set(seen["names"]) == set(contract("host_certificates")[host])
