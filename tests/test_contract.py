"""The contract of each topology, by value: written out here, not computed as the contract computes it."""

import stat
from urllib.parse import unquote, urlsplit

import pytest
from ansible.errors import AnsibleError
from ansible.template import trust_as_template

from tests.samples import ARCHIVES, SECRETS, UGLY_IN_URL
from tests.topology import Topology

PROJECTS = {"producer": {"name": "producer"}, "service": {"name": "service"}}

URLS = {
    "broker_url": f"amqp://django:broker%20{UGLY_IN_URL}@rabbitmq.quintet.internal:5672/rabbit",
    "result_backend_url": f"redis://django:redis%20{UGLY_IN_URL}@redis.quintet.internal:6379/0",
    "cache_url": f"redis://django:redis%20{UGLY_IN_URL}@redis.quintet.internal:6380/1",
}
DATABASE_URLS = {
    "producer": f"postgresql://producer:producer%20{UGLY_IN_URL}@postgresql.quintet.internal:5432/producer",
    "service": f"postgresql://service:service%20{UGLY_IN_URL}@postgresql.quintet.internal:5432/service",
}
LOOPBACK = "127.0.0.1"
PRODUCER_SITE = {
    "project": "producer",
    "directory": "/opt/quintet/producer",
    "release": "aaaaaaaaaaaa",
    "host_names": ["localhost"],
    "application": "producer.wsgi:application",
    "daemons": [{"name": "relay", "command": "relay", "watchdog_seconds": 60}],
}
PRODUCER_WORKER = {
    "project": "producer",
    "directory": "/opt/quintet/producer",
    "release": "aaaaaaaaaaaa",
    "celery_app": "producer",
    "queues": ["results"],
    "concurrency": 1,
    "watchdog_seconds": 60,
}
SERVICE_WORKER = {
    "project": "service",
    "directory": "/opt/quintet/service",
    "release": "bbbbbbbbbbbb",
    "celery_app": "service",
    "queues": ["service"],
    "watchdog_seconds": 60,
}

# By topology and host: what it installs, listens on, may use of its memory, and which roles and projects it has.
HOSTS = {
    "onebox": {
        "box1": {
            "host_address": "10.213.88.10",
            "listen_addresses": [LOOPBACK],
            "tier_memory_mb": 409,
            "host_packages": [
                "nginx-light",
                "postgresql-17",
                "python3",
                "rabbitmq-server",
                "redis-server",
            ],
            "host_data_tiers": ["postgresql", "redis", "rabbitmq"],
            "host_app_tiers": ["web", "celery_worker"],
            "projects": ["producer", "service"],
            "first_projects": ["producer", "service"],
            "base_names": {
                "box1.quintet.internal": LOOPBACK,
                "postgresql.quintet.internal": LOOPBACK,
                "rabbitmq.quintet.internal": LOOPBACK,
                "redis.quintet.internal": LOOPBACK,
            },
        },
    },
    "quintet": {
        "postgresql1": {
            "host_address": "10.213.171.10",
            "listen_addresses": [LOOPBACK, "10.213.171.10"],
            "tier_memory_mb": 2048,
            "host_packages": ["postgresql-17"],
            "host_data_tiers": ["postgresql"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
            "base_names": {
                "postgresql1.quintet.internal": LOOPBACK,
                "redis1.quintet.internal": "10.213.171.11",
                "rabbitmq1.quintet.internal": "10.213.171.12",
                "web1.quintet.internal": "10.213.171.13",
                "worker1.quintet.internal": "10.213.171.14",
                "postgresql.quintet.internal": LOOPBACK,
                "rabbitmq.quintet.internal": "10.213.171.12",
                "redis.quintet.internal": "10.213.171.11",
            },
        },
        "redis1": {
            "host_address": "10.213.171.11",
            "listen_addresses": [LOOPBACK, "10.213.171.11"],
            "tier_memory_mb": 2048,
            "host_packages": ["redis-server"],
            "host_data_tiers": ["redis"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
        },
        "rabbitmq1": {
            "host_address": "10.213.171.12",
            "listen_addresses": [LOOPBACK, "10.213.171.12"],
            "tier_memory_mb": 2048,
            "host_packages": ["rabbitmq-server"],
            "host_data_tiers": ["rabbitmq"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
        },
        "web1": {
            "host_address": "10.213.171.13",
            "tier_memory_mb": 2048,
            "host_packages": ["nginx-light", "python3"],
            "host_data_tiers": [],
            "host_app_tiers": ["web"],
            "projects": ["producer"],
            "first_projects": ["producer"],
            "base_names": {
                "postgresql1.quintet.internal": "10.213.171.10",
                "redis1.quintet.internal": "10.213.171.11",
                "rabbitmq1.quintet.internal": "10.213.171.12",
                "web1.quintet.internal": LOOPBACK,
                "worker1.quintet.internal": "10.213.171.14",
                "postgresql.quintet.internal": "10.213.171.10",
                "rabbitmq.quintet.internal": "10.213.171.12",
                "redis.quintet.internal": "10.213.171.11",
            },
        },
        "worker1": {
            "host_address": "10.213.171.14",
            "tier_memory_mb": 2048,
            "host_packages": ["python3"],
            "host_data_tiers": [],
            "host_app_tiers": ["celery_worker"],
            "projects": ["producer", "service"],
            "first_projects": ["service"],
        },
    },
}
EXPRESSIONS = {
    "projects": "host_projects | map(attribute='name')",
    "first_projects": "host_first_projects | map(attribute='name')",
}
# By topology: who may come to which database, seen from the host that admits.
CLIENTS = {
    "onebox": ("box1", {"producer": [LOOPBACK], "service": [LOOPBACK]}),
    "quintet": ("postgresql1", {"producer": ["10.213.171.13", "10.213.171.14"], "service": ["10.213.171.14"]}),
    # web1, web2, worker1 and worker2 are .11 to .14, and web2 is a worker too. The order is one that stays: `union` has
    # another one in each run, which would rewrite pg_hba.conf in each deploy.
    "wide": (
        "data1",
        {
            "producer": ["10.213.10.11", "10.213.10.12", "10.213.10.13", "10.213.10.14"],
            "service": ["10.213.10.13", "10.213.10.14", "10.213.10.12"],
        },
    ),
}
VALUES = [
    (topology, host, name) for topology, hosts in HOSTS.items() for host, values in hosts.items() for name in values
]


@pytest.fixture
def named(request):
    """A topology by its name."""
    return request.getfixturevalue


@pytest.mark.parametrize("topology", HOSTS)
def test_every_host_is_in_the_table(named, topology):
    assert named(topology).hosts() == list(HOSTS[topology])


@pytest.mark.parametrize(("topology", "host", "name"), VALUES)
def test_host(named, topology, host, name):
    assert named(topology).render(host, EXPRESSIONS.get(name, name)) == HOSTS[topology][host][name]


@pytest.mark.parametrize("name", URLS)
def test_url_is_the_same_on_every_host(each, name):
    assert {each.render(host, name) for host in each.hosts()} == {URLS[name]}


@pytest.mark.parametrize("project", DATABASE_URLS)
def test_database_url_is_the_same_on_every_host(each, project):
    urls = {each.render(host, "database_url", project=PROJECTS[project]) for host in each.hosts()}
    assert urls == {DATABASE_URLS[project]}


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        (URLS["broker_url"], "django", SECRETS["broker_password"]),
        (URLS["result_backend_url"], "django", SECRETS["redis_password"]),
        (URLS["cache_url"], "django", SECRETS["redis_password"]),
        *((url, name, SECRETS["database_passwords"][name]) for name, url in DATABASE_URLS.items()),
    ],
)
def test_url_read_back_gives_the_password(url, user, password):
    parts = urlsplit(url)
    assert (parts.username, unquote(parts.password)) == (user, password)
    assert not parts.query
    assert not parts.fragment


def test_names_in_urls_are_quoted_too(quintet):
    url = quintet.render("web1", "broker_url", broker_user="a/b@c", broker_vhost="x/y#z")
    assert url.startswith("amqp://a%2Fb%40c:")
    assert url.endswith("/x%2Fy%23z")


@pytest.mark.parametrize("project", PROJECTS)
def test_environment_of_a_project(quintet, project):
    environment = quintet.render("web1", "project_environment", project=PROJECTS[project])
    assert environment == {
        "DATABASE_URL": DATABASE_URLS[project],
        "CELERY_BROKER_URL": URLS["broker_url"],
        "CELERY_RESULT_BACKEND": URLS["result_backend_url"],
        "CACHE_URL": URLS["cache_url"],
        "SECRET_KEY": SECRETS["django_secret_keys"][project],
        "ALLOWED_HOSTS": "localhost",
    }


def test_environment_of_a_project_can_be_added_to(quintet):
    project = {"name": "producer", "environment": {"DEBUG": "0", "CACHE_URL": "locmem://"}}
    environment = quintet.render("web1", "project_environment", project=project)
    assert (environment["DEBUG"], environment["CACHE_URL"]) == ("0", "locmem://")
    assert environment["CELERY_BROKER_URL"] == URLS["broker_url"]


@pytest.mark.parametrize("topology", CLIENTS)
def test_databases_admit_their_clients(named, topology):
    host, clients = CLIENTS[topology]
    assert named(topology).render(host, "databases") == [
        {"name": name, "password": SECRETS["database_passwords"][name], "clients": clients[name]} for name in clients
    ]


def test_first_hosts_among_several(wide):
    names = ("web1", "web2", "worker1", "worker2")
    assert {host: wide.render(host, EXPRESSIONS["projects"]) for host in names} == {
        "web1": ["producer"],
        "web2": ["producer", "service"],
        "worker1": ["producer", "service"],
        "worker2": ["producer", "service"],
    }
    assert {host: wide.render(host, EXPRESSIONS["first_projects"]) for host in names} == {
        "web1": ["producer"],
        "web2": [],
        "worker1": ["service"],
        "worker2": [],
    }


def test_a_project_of_both_tiers_is_migrated_by_a_web_host_alone(wide):
    both = [{"name": "both", "web": {"application": "x"}, "worker": {"celery_app": "x", "queues": ["x"]}}]
    first = {host: wide.render(host, EXPRESSIONS["first_projects"], django_projects=both) for host in wide.hosts()}
    assert [host for host, projects in first.items() if projects] == ["web1"]


def test_data_tiers_listen_for_applications_elsewhere_only(wide):
    assert wide.render("data1", "listen_addresses") == [LOOPBACK, "10.213.10.10"]


def test_memory_is_shared_by_the_tiers_of_a_host(wide):
    assert [wide.render(host, "tier_memory_mb") for host in wide.hosts()] == [682, 2048, 1024, 2048, 2048]


def test_broker_access(each):
    host = each.hosts("rabbitmq")[0]
    assert each.render(host, "rabbitmq_vhosts") == [
        {"name": "rabbit", "default_queue_type": "quorum", "dead_letter_queue": "parked", "delivery_limit": 5}
    ]
    assert each.render(host, "rabbitmq_users") == [
        {
            "name": "django",
            "password": SECRETS["broker_password"],
            "tags": ["management"],
            "permissions": {"rabbit": {"configure": ".*", "write": ".*", "read": ".*"}},
        }
    ]


def test_more_users_and_vhosts_follow(quintet):
    assert quintet.render("rabbitmq1", "broker_users", broker_extra_users=[{"name": "x"}])[1:] == [{"name": "x"}]
    assert quintet.render("rabbitmq1", "broker_vhosts", broker_extra_vhosts=[{"name": "y"}])[1:] == [{"name": "y"}]


def test_web_sites(each):
    assert [each.render(host, "web_sites") for host in each.hosts("web")] == [[PRODUCER_SITE]]


def test_workers(each):
    assert [each.render(host, "celery_worker_workers") for host in each.hosts("worker")] == [
        [PRODUCER_WORKER, SERVICE_WORKER]
    ]


@pytest.mark.parametrize(("group", "name"), [("web", "web_sites"), ("worker", "celery_worker_workers")])
def test_a_project_without_a_release_is_an_error(quintet, group, name):
    """What is undefined in a loop does not shorten its list."""
    host = quintet.hosts(group)[0]
    with pytest.raises(AnsibleError):
        quintet.render(host, name, archives={})
    with pytest.raises(AnsibleError, match="no_such_name"):
        quintet.render(host, name, archives=trust_as_template("{{ no_such_name }}"))


@pytest.mark.parametrize("project", PROJECTS)
def test_a_release_is_named_by_its_archive(each, project):
    for host in each.hosts():
        found = [
            each.render(host, f"django_project_{name}", project=PROJECTS[project]) for name in ("archive", "release")
        ]
        assert found == [ARCHIVES[project], {"producer": "aaaaaaaaaaaa", "service": "bbbbbbbbbbbb"}[project]]


@pytest.mark.parametrize(("name", "host", "share"), [("quintet", "redis1", 1), ("onebox", "box1", 5)])
def test_memory_that_no_overlay_says_is_that_of_the_host(name, host, share):
    topology = Topology(f"inventories/{name}.yml")
    assert topology.render(host, "tier_memory_mb", ansible_facts={"memtotal_mb": 4000}) == 4000 // share
    assert topology.render(host, "tier_memory_mb", ansible_facts={}) == 1024 // share
    assert (
        topology.render(host, "tier_memory_mb", ansible_facts={"memtotal_mb": 4000}, host_memory_mb=500) == 500 // share
    )


def test_node_names_of_rabbitmq(each):
    expected = {"onebox": "rabbit@box1.quintet.internal", "quintet": "rabbit@rabbitmq1.quintet.internal"}
    host = each.hosts("rabbitmq")[0]
    assert each.render(host, "rabbitmq_node_name") == expected[each.render(host, "stack")]


# -- Stacks side by side ----------------------------------------------------------------------------------------------

STACKS = {  # stack: (topology, network, ports of this machine)
    "quintet": ("quintet", "10.213.171", ["127.0.0.1:8000:80", "127.0.0.1:15672:15672"]),
    "onebox": ("onebox", "10.213.88", ["127.0.0.1:8001:80", "127.0.0.1:15673:15672"]),
    "molecule-quintet": ("quintet", "10.213.215", []),
    "molecule-onebox": ("onebox", "10.213.35", []),
    "bench": ("quintet", "10.213.27", []),
}


@pytest.mark.parametrize("stack", STACKS)
def test_stack_has_a_network_and_ports_of_its_own(monkeypatch, stack):
    name, network, ports = STACKS[stack]
    monkeypatch.delenv("WEB_PORT", raising=False)
    monkeypatch.delenv("MANAGEMENT_PORT", raising=False)
    monkeypatch.setenv("QUINTET_STACK", stack)
    topology = Topology(f"inventories/{name}.yml", "inventories/containers.yml")
    assert {topology.render(host, "stack") for host in topology.hosts()} == {stack}
    assert {topology.render(host, "node_network") for host in topology.hosts()} == {network}
    found = [port for host in topology.hosts() for port in topology.render(host, "node_ports")]
    assert sorted(found) == sorted(ports)
    # Nobody answers at an address that is not this stack's.
    assert topology.render(topology.hosts()[0], "application_url").startswith(
        "http://localhost:" if ports else f"http://{network}."
    )


def test_stacks_of_one_machine_share_nothing():
    networks = [network for _, network, _ in STACKS.values()]
    ports = [port.split(":")[1] for _, _, stack_ports in STACKS.values() for port in stack_ports]
    assert len(set(networks)) == len(networks)
    assert len(set(ports)) == len(ports) == 4


def test_stack_is_named_by_its_topology(monkeypatch):
    monkeypatch.delenv("QUINTET_STACK", raising=False)
    topology = Topology("inventories/onebox.yml", "inventories/containers.yml")
    assert topology.render("box1", "stack") == "onebox"
    assert topology.render("box1", "secrets_dir").endswith("/inventories/.secrets/onebox")


# -- Secrets ----------------------------------------------------------------------------------------------------------

GENERATED = {
    "broker_password": 40,
    "redis_password": 40,
    "database_passwords.producer": 40,
    "database_passwords.service": 40,
    "django_secret_keys.producer": 60,
    "django_secret_keys.service": 60,
}


def secrets_of(directory):
    """All secrets of a stack that keeps them in this directory."""
    topology = Topology("inventories/onebox.yml", "inventories/containers.yml", extra={"secrets_dir": str(directory)})
    return {name: topology.render("box1", name) for name in GENERATED}


def test_secrets_are_long_and_all_different(tmp_path):
    secrets = secrets_of(tmp_path / "one")
    assert {name: len(value) for name, value in secrets.items()} == GENERATED
    assert len(set(secrets.values())) == len(GENERATED)
    assert all(value.isalnum() for value in secrets.values())


def test_secrets_are_kept_for_their_owner_alone(tmp_path):
    first = secrets_of(tmp_path / "one")
    files = list((tmp_path / "one").iterdir())
    assert len(files) == len(GENERATED)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    assert secrets_of(tmp_path / "one") == first


def test_stacks_have_secrets_of_their_own(tmp_path):
    one, two = secrets_of(tmp_path / "one"), secrets_of(tmp_path / "two")
    assert not set(one.values()) & set(two.values())


def test_no_secret_can_be_made_in_the_repository():
    topology = Topology("inventories/onebox.yml", "inventories/containers.yml")
    with pytest.raises((AnsibleError, PermissionError), match="a fast test wants"):
        topology.render("box1", "broker_password")


# -- The inventory itself ---------------------------------------------------------------------------------------------


def test_unknown_names_are_errors(quintet):
    with pytest.raises(LookupError):
        quintet.hosts("workers")
    with pytest.raises(LookupError):
        quintet.render("worker9", "stack")
    with pytest.raises(AnsibleError):
        quintet.render("worker1", "no_such_variable")
