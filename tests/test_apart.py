"""`ha` split by editing the inventory alone: data tiers apart, five nodes of RabbitMQ, three web hosts."""

import pytest


@pytest.mark.parametrize("host", ["web3", "worker2"])
def test_applications_reach_each_tier_at_its_own_hosts(apart, host):
    found = {service["name"]: service["servers"] for service in apart.render(host, "haproxy_services")}
    for tier in ("postgresql", "rabbitmq", "redis"):
        servers = found[f"{tier}.quintet.internal"]
        places = [apart.render(one, "host_address") for one in apart.hosts(tier)]
        assert [(server["name"], server["address"]) for server in servers] == list(
            zip(apart.hosts(tier), places, strict=True)
        )


def test_members_know_each_other_and_nobody_else(apart):
    assert [one["name"] for one in apart.render("postgresql2", "patroni_members")] == apart.hosts("postgresql")
    assert apart.render("postgresql2", "patroni_etcd") == [
        f"etcd{number}.quintet.internal:2379" for number in (1, 2, 3)
    ]
    nodes = apart.render("rabbitmq1", "rabbitmq_cluster_nodes")
    assert nodes == [f"rabbit@{host}.quintet.internal" for host in apart.hosts("rabbitmq")]


def test_a_host_opens_the_ports_of_its_own_tier_alone(apart):
    def ports(host):
        return {rule["port"] for rule in apart.render(host, "open_ports") if "sources" in rule}

    tiers = {
        "etcd1": {2379, 2380},
        "postgresql1": {5432, 8008},
        "redis1": {6379, 6380, 26379},
        "rabbitmq5": {5671, 25672},
    }
    for host, own in tiers.items():
        others = set().union(*(ports for one, ports in tiers.items() if one != host))
        assert own <= ports(host)
        assert not others & ports(host)
