"""What members of one tier say to each other: encrypted, by name, and heard from no one but hosts of ours."""

import pytest

from verify import TOPOLOGY, contract
from verify.links import handshake, refused, wrong_certificates

# What only another host of the same tier may ask, by the name of its port.
MEMBERS = {
    "etcd_client": ("etcd", contract("etcd_client_port")),
    "etcd_peer": ("etcd", contract("etcd_peer_port")),
    "sentinel": ("redis", contract("sentinel_port")),
    "distribution": ("rabbitmq", 25672),
}


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
