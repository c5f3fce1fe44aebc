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


@pytest.mark.parametrize(("group", "port"), MEMBERS.values(), ids=MEMBERS)
def test_members_hear_only_hosts_of_ours(group, port, tmp_path):
    host, peer = TOPOLOGY.hosts(group)[:2]
    link = (f"{host}.{contract('service_domain')}", host, port, True)
    own = contract("tls_identity", peer)
    seen = handshake(link, peer, identity=own)
    assert (seen["version"], seen["closed"]) == ("TLSv1.3", False)
    assert set(seen["names"]) == set(contract("host_certificates")[host])
    assert "Hostname mismatch" in handshake(link, peer, identity=own, name="other.quintet.internal")["refused"]
    for identity in ("", *wrong_certificates(peer, tmp_path).values()):
        assert refused(seen := handshake(link, peer, identity=identity)), seen
