"""The contract of each topology, by value: written out here, not computed as the contract computes it."""

import stat
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.template import trust_as_template

from tests.samples import ARCHIVES, SECRETS, UGLY_IN_URL
from tests.topology import ROOT, Topology

PROJECTS = ("producer", "service")

URLS = {
    name: {
        "database_url": f"postgresql://{name}:{name}%20{UGLY_IN_URL}@postgresql.quintet.internal:5432/{name}",
        "broker_url": f"amqp://{name}:broker%20{UGLY_IN_URL}@rabbitmq.quintet.internal:5672/rabbit",
        "result_backend_url": f"redis://{name}:redis%20{UGLY_IN_URL}@redis.quintet.internal:6379/0",
        "cache_url": f"redis://{name}:redis%20{UGLY_IN_URL}@redis.quintet.internal:6380/1",
    }
    for name in PROJECTS
}
LOOPBACK = "127.0.0.1"
PROXY = "127.0.1.10"
PRODUCER_SITE = {
    "project": "producer",
    "directory": "/opt/quintet/producer",
    "release": "aaaaaaaaaaaa",
    "host_names": ["localhost"],
    "application": "producer.wsgi:application",
    "config": "gunicorn.conf.py",
    "health": {"path": "/healthz/live", "statuses": [200]},
    "open_paths": ["/healthz"],
    "limits": [{"path": "/admin/login/", "per_minute": 10}],
    "daemons": [{"name": "relay", "command": "relay", "watchdog_seconds": 60}],
}
PRODUCER_WORKER = {
    "name": "producer",
    "project": "producer",
    "directory": "/opt/quintet/producer",
    "release": "aaaaaaaaaaaa",
    "celery_app": "producer",
    "queues": ["results"],
    "concurrency": 1,
    "watchdog_seconds": 60,
}
SERVICE_WORKER = {
    "name": "service",
    "project": "service",
    "directory": "/opt/quintet/service",
    "release": "bbbbbbbbbbbb",
    "celery_app": "service",
    "queues": ["service"],
    "concurrency": 4,
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
                "haproxy",
                "nftables",
                "nginx-light",
                "pgbackrest",
                "postgresql-17",
                "python3",
                "rabbitmq-server",
                "redis-server",
                "unattended-upgrades",
            ],
            "host_data_tiers": ["postgresql", "redis", "rabbitmq", "pgbackrest"],
            "host_app_tiers": ["web", "celery_worker"],
            "projects": ["producer", "service"],
            "first_projects": ["producer", "service"],
            "base_names": {
                "box1.quintet.internal": LOOPBACK,
                "postgresql.quintet.internal": PROXY,
                "rabbitmq.quintet.internal": PROXY,
                "redis.quintet.internal": PROXY,
            },
        },
    },
    "quintet": {
        "postgresql1": {
            "host_address": "10.213.171.10",
            "listen_addresses": [LOOPBACK, "10.213.171.10"],
            "tier_memory_mb": 2048,
            "host_packages": ["nftables", "pgbackrest", "postgresql-17", "unattended-upgrades"],
            "host_data_tiers": ["postgresql", "pgbackrest"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
            "base_names": {
                "postgresql1.quintet.internal": LOOPBACK,
                "redis1.quintet.internal": "10.213.171.11",
                "rabbitmq1.quintet.internal": "10.213.171.12",
                "web1.quintet.internal": "10.213.171.13",
                "worker1.quintet.internal": "10.213.171.14",
            },
        },
        "redis1": {
            "host_address": "10.213.171.11",
            "listen_addresses": [LOOPBACK, "10.213.171.11"],
            "tier_memory_mb": 2048,
            "host_packages": ["nftables", "redis-server", "unattended-upgrades"],
            "host_data_tiers": ["redis"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
        },
        "rabbitmq1": {
            "host_address": "10.213.171.12",
            "listen_addresses": [LOOPBACK, "10.213.171.12"],
            "tier_memory_mb": 2048,
            "host_packages": ["nftables", "rabbitmq-server", "unattended-upgrades"],
            "host_data_tiers": ["rabbitmq"],
            "host_app_tiers": [],
            "projects": [],
            "first_projects": [],
        },
        "web1": {
            "host_address": "10.213.171.13",
            "tier_memory_mb": 2048,
            "host_packages": ["haproxy", "nftables", "nginx-light", "python3", "unattended-upgrades"],
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
                "postgresql.quintet.internal": PROXY,
                "rabbitmq.quintet.internal": PROXY,
                "redis.quintet.internal": PROXY,
            },
        },
        "worker1": {
            "host_address": "10.213.171.14",
            "tier_memory_mb": 2048,
            "host_packages": ["haproxy", "nftables", "python3", "unattended-upgrades"],
            "host_data_tiers": [],
            "host_app_tiers": ["celery_worker"],
            "projects": ["producer", "service"],
            "first_projects": ["service"],
        },
    },
}
# Where there is an edge, on its hosts and the web hosts behind it.
BEHIND = {
    "edge1": {
        "host_roles": ["base", "hardening", "keepalived", "haproxy"],
        "host_app_tiers": [],
        "host_packages": ["haproxy", "keepalived", "nftables", "python3", "unattended-upgrades"],
        "open_ports": [{"port": 80}, {"protocol": 112, "sources": ["10.213.10.12"]}],
        "tier_memory_mb": 2048,
        "keepalived_address": "10.213.10.250",
        "keepalived_source": "10.213.10.11",
        "keepalived_peers": ["10.213.10.12"],
        "keepalived_priority": 250,
        "node_ports": [],
    },
    "edge2": {"keepalived_peers": ["10.213.10.11"], "keepalived_priority": 249},
    "web1": {
        "host_roles": ["base", "hardening", "haproxy"],
        "open_ports": [{"port": 8080, "sources": ["10.213.10.11", "10.213.10.12"]}],
        "application_url": "http://10.213.10.250:80",
        "web_port": 8080,
        "web_https_port": 0,
        "web_edges": ["10.213.10.11", "10.213.10.12"],
        "web_edge_url": "http://10.213.10.250:80",
        "project_values.local_url": "http://127.0.0.1:8080",
        "web_sites[0].host_names": ["localhost", "10.213.10.250"],
        "node_ports": [],
    },
    "worker1": {"open_ports": [], "host_roles": ["base", "hardening", "haproxy"]},
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


def project(topology, name, **more):
    """A project, as the contract completes its entry with more in it."""
    host = topology.hosts()[0]
    entries = [entry | (more if entry["name"] == name else {}) for entry in topology.render(host, "django_projects")]
    return next(one for one in topology.render(host, "projects", django_projects=entries) if one["name"] == name)


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


@pytest.mark.parametrize(("host", "name"), [(host, name) for host, values in BEHIND.items() for name in values])
def test_host_behind_an_edge(edged, host, name):
    assert edged.render(host, name, project=project(edged, "producer")) == BEHIND[host][name]


def test_https_behind_an_edge_ends_at_the_web_hosts(edged):
    more = {"application_url": "https://app.example"}
    assert edged.render("web1", "[web_port, web_https_port, web_https_public_port]", **more) == [8080, 8443, 443]
    assert edged.render("web1", "web_edge_url", **more) == "https://10.213.10.250:443"
    assert edged.render("edge1", "host_certificates", **more)["edge1"] == ["edge1.quintet.internal"]
    assert [rule["port"] for rule in edged.render("edge1", "open_ports[:2]", **more)] == [80, 443]
    assert [rule["port"] for rule in edged.render("web2", "open_ports", **more)] == [8080, 8443]


@pytest.mark.parametrize("name", PROJECTS)
def test_urls_are_the_same_on_every_host(each, name):
    one = project(each, name)
    for host in each.hosts():
        assert {url: each.render(host, url, project=one) for url in URLS[name]} == URLS[name]


KINDS = {"database_url": "database", "broker_url": "broker", "result_backend_url": "redis", "cache_url": "redis"}


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [(URLS[name][url], name, SECRETS[f"{kind}_passwords"][name]) for name in PROJECTS for url, kind in KINDS.items()],
)
def test_url_read_back_gives_the_password(url, user, password):
    parts = urlsplit(url)
    assert (parts.username, unquote(parts.password)) == (user, password)
    assert not parts.query
    assert not parts.fragment


def test_names_in_urls_are_quoted_too(quintet):
    ugly = project(quintet, "service", broker={"user": "a/b@c", "vhost": "x/y#z"})
    url = quintet.render("web1", "broker_url", project=ugly, broker_passwords={"a/b@c": "x"})
    assert url.startswith("amqp://a%2Fb%40c:")
    assert url.endswith("/x%2Fy%23z")


@pytest.mark.parametrize("name", PROJECTS)
def test_environment_of_a_project(quintet, name):
    environment = quintet.render("web1", "project_environment", project=project(quintet, name))
    assert environment == {
        "DATABASE_URL": URLS[name]["database_url"],
        "CELERY_BROKER_URL": URLS[name]["broker_url"],
        "CELERY_RESULT_BACKEND": URLS[name]["result_backend_url"],
        "CACHE_URL": URLS[name]["cache_url"],
        "SECRET_KEY": SECRETS["django_secret_keys"][name],
        "ALLOWED_HOSTS": "localhost",
        "MEDIA_ROOT": f"/var/lib/{name}/media",
        "QUINTET_FILES": f"/opt/quintet/{name}/files",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/etc/haproxy/authorities.pem",
        **({"ROUNDTRIP_URL": "http://127.0.0.1:80/"} if name == "producer" else {}),
    }


def test_environment_of_a_project_can_be_added_to(quintet):
    more = project(
        quintet,
        "producer",
        environment={"DEBUG": "0", "CACHE_URL": "locmem://", "JSON": '{"a": 1}', "NUMBER": 3},
        secrets={"DSN": "pg://{database.user}:{database.password}@{database.host}:{database.port}/{database.name}"},
    )
    environment = quintet.render("web1", "project_environment", project=more)
    assert (environment["DEBUG"], environment["CACHE_URL"]) == ("0", "locmem://")
    assert (environment["JSON"], environment["NUMBER"]) == ('{"a": 1}', "3")
    password = SECRETS["database_passwords"]["producer"]
    assert environment["DSN"] == f"pg://producer:{password}@postgresql.quintet.internal:5432/producer"
    assert environment["CELERY_BROKER_URL"] == URLS["producer"]["broker_url"]


# What a project of its own gets that says no more than it must.
SHOP = {
    "name": "shop",
    "source": {"path": "x"},
    "settings_module": "shop.settings",
    "web": {"application": "shop.wsgi"},
    "worker": {"celery_app": "shop"},
}
GIVEN = {
    "archives": {"shop": "/x/.cache/shop/cccccccccccc.tar"},
    "database_passwords": {"shop": "db", "shop_owner": "tables"},
    "redis_passwords": {"shop": "key"},
    "django_secret_keys": {"shop": "key"},
    "broker_passwords": {"shop": "rabbit", "django": "x"},
}


def shop(topology, host, expression, **more):
    """The value of an expression where there is only that project, with more in its entry."""
    given = GIVEN | {"django_projects": [SHOP | more]}
    [found] = topology.render(host, "projects", **given)
    return topology.render(host, expression, project=found, **given)


def test_places_of_the_services(quintet):
    assert shop(quintet, "web1", "project_values") == {
        "database.url": "postgresql://shop:db@postgresql.quintet.internal:5432/shop",
        "database.host": "postgresql.quintet.internal",
        "database.port": 5432,
        "database.name": "shop",
        "database.user": "shop",
        "database.password": "db",
        "broker.url": "amqp://shop:rabbit@rabbitmq.quintet.internal:5672/shop",
        "broker.host": "rabbitmq.quintet.internal",
        "broker.port": 5672,
        "broker.user": "shop",
        "broker.password": "rabbit",
        "broker.vhost": "shop",
        "results.url": "redis://shop:key@redis.quintet.internal:6379/898",
        "results.host": "redis.quintet.internal",
        "results.port": 6379,
        "results.user": "shop",
        "results.password": "key",
        "results.database": 898,
        "cache.url": "redis://shop:key@redis.quintet.internal:6380/899",
        "cache.host": "redis.quintet.internal",
        "cache.port": 6380,
        "cache.user": "shop",
        "cache.password": "key",
        "cache.database": 899,
        "secret_key": "key",
        "https": "false",
        "local_url": "http://127.0.0.1:80",
        "hosts": "localhost",
        "state": "/var/lib/shop",
        "files": "/opt/quintet/shop/files",
        "authorities": "/etc/haproxy/authorities.pem",
    }


def test_https_is_what_the_url_says(quintet):
    def render(expression, url="https://app.example", host="web1", **more):
        return quintet.render(host, expression, application_url=url, **more)

    names = {"app_hostnames": ["app.example", "192.0.2.9"]}
    assert render("web_https_port") == 443
    assert [rule["port"] for rule in render("open_ports")] == [80, 443]
    assert render("host_certificates.web1", **names) == ["web1.quintet.internal", "app.example", "192.0.2.9"]
    assert render("host_certificates.worker1") == ["worker1.quintet.internal"]
    assert render("web_identity", tls_identity="own", https_identity="given") == "own"
    assert render("web_identity", tls_identity="own", https_identity="given", https_certificate="given") == "given"
    assert "certbot" not in render("host_packages")
    acme = {"https_certificate": "acme", "https_acme": {"email": "a@b.example"}}
    assert "certbot" in render("host_packages", **acme)
    assert "certbot" not in render("host_packages", host="worker1", **acme)
    assert render("web_acme", **acme) == {"email": "a@b.example"}
    assert render("web_acme", **acme | {"https_certificate": "own"}) == {}
    # A proxy in front of it has the certificate; the application is told.
    for more, port, told in (({"https_certificate": "elsewhere"}, 0, "true"), ({"url": "http://app.example"}, 0, None)):
        assert render("web_https_port", **more) == port
        assert [rule["port"] for rule in render("open_ports", **more)] == [80]
        project = next(project for project in quintet.render("web1", "projects") if project["name"] == "producer")
        assert render("project_environment", project=project, **more).get("HTTPS") == told


def test_a_project_has_a_vhost_and_a_user_of_its_own(quintet):
    users = shop(quintet, "rabbitmq1", "broker_users")
    assert [user["name"] for user in users] == ["django", "monitor", "shop"]
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    assert users[2] == {"name": "shop", "password": "rabbit", "tags": [], "permissions": {"shop": everything}}
    assert shop(quintet, "rabbitmq1", "broker_vhosts")[1:] == [{"name": "shop", "default_queue_type": "classic"}]


def test_projects_may_share_a_vhost(quintet):
    shared = {"vhost": "rabbit", "queue_type": "quorum"}
    assert len(shop(quintet, "rabbitmq1", "broker_vhosts", broker=shared)) == 1
    assert list(shop(quintet, "rabbitmq1", "broker_users", broker=shared)[2]["permissions"]) == ["rabbit"]


def test_a_project_on_some_hosts(wide):
    def hosts(**more):
        return {
            name: [host for host in wide.hosts() if shop(wide, host, f"host_{name}_projects", **more)]
            for name in ("web", "worker", "first")
        }

    assert hosts() == {"web": ["web1", "web2"], "worker": ["web2", "worker1", "worker2"], "first": ["web1"]}
    assert hosts(hosts=["web2", "worker2"]) == {"web": ["web2"], "worker": ["web2", "worker2"], "first": ["web2"]}
    [owner, user, _] = shop(wide, "data1", "database_roles", hosts=["worker2", "web1"])
    assert (owner["name"], owner["clients"]) == ("shop_owner", ["10.213.10.11"])
    assert (user["name"], user["clients"]) == ("shop", ["10.213.10.11", "10.213.10.14"])


def test_a_project_that_makes_tables_owns_its_database(wide):
    more = {"database": {"makes_tables": True}}
    assert shop(wide, "data1", "databases", **more) == [{"name": "shop", "owner": "shop", "user": "shop"}]
    assert [role["name"] for role in shop(wide, "data1", "database_roles", **more)] == ["shop", "monitor"]


def test_workers_beside_the_first_are_like_it_where_they_say_nothing(quintet):
    worker = {"celery_app": "shop", "concurrency": 4, "more": [{"name": "slow", "queues": ["slow"], "concurrency": 1}]}
    workers = shop(quintet, "worker1", "celery_worker_workers", worker=worker)
    assert [(one["name"], one.get("queues"), one["concurrency"]) for one in workers] == [
        ("shop", None, 4),
        ("shop-slow", ["slow"], 1),
    ]


def test_beat_runs_on_the_first_worker_host_alone(wide):
    worker = {"celery_app": "shop", "beat": {}}
    here = {host: shop(wide, host, "celery_worker_beats", worker=worker) for host in wide.hosts("worker")}
    assert {host: [beat["here"] for beat in beats] for host, beats in here.items()} == {
        "worker1": [True],
        "worker2": [False],
        "web2": [False],
    }
    assert here["worker1"][0]["scheduler"] == "celery.beat:PersistentScheduler"


def test_packages_to_run_are_installed_where_the_project_is(wide):
    more = {"dependencies": {"packages": ["libmagic1"]}, "hosts": ["web1", "worker1"]}
    assert [host for host in wide.hosts() if "libmagic1" in shop(wide, host, "host_packages", **more)] == [
        "web1",
        "worker1",
    ]


@pytest.mark.parametrize("topology", CLIENTS)
def test_databases_admit_their_clients(named, topology):
    host, clients = CLIENTS[topology]
    roles = {role["name"]: role for role in named(topology).render(host, "database_roles")}
    for name, addresses in clients.items():
        assert roles[name]["clients"] == addresses
        assert roles[f"{name}_owner"]["clients"] == addresses[:1]
        for role in (roles[name], roles[f"{name}_owner"]):
            assert (role["database"], role["password"]) == (name, SECRETS["database_passwords"][role["name"]])
    assert named(topology).render(host, "databases") == [
        {"name": name, "owner": f"{name}_owner", "user": name} for name in clients
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
    both = [SHOP]
    first = {host: wide.render(host, EXPRESSIONS["first_projects"], django_projects=both) for host in wide.hosts()}
    assert [host for host, projects in first.items() if projects] == ["web1"]


def test_data_tiers_listen_for_applications_elsewhere_only(wide):
    assert wide.render("data1", "listen_addresses") == [LOOPBACK, "10.213.10.10"]


def test_memory_is_shared_by_the_tiers_of_a_host(wide):
    assert [wide.render(host, "tier_memory_mb") for host in wide.hosts()] == [682, 2048, 1024, 2048, 2048]
    assert [wide.render(host, "tier_memory_max_mb") for host in wide.hosts()] == [1023, 1843, 1536, 1843, 1843]


RIGHTS = {
    "producer": {
        "configure": r"^(results|celery.*|.*celery\.pidbox)$",
        "write": r"^(amq\.default|service|results|celery.*|.*celery\.pidbox)$",
        "read": r"^(results|parked|celery.*|.*celery\.pidbox)$",
    },
    "service": {
        "configure": r"^(service|celery.*|.*celery\.pidbox)$",
        "write": r"^(amq\.default|service|celery.*|.*celery\.pidbox)$",
        "read": r"^(service|celery.*|.*celery\.pidbox)$",
    },
}


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
        },
        {"name": "monitor", "password": SECRETS["monitor_password"], "tags": ["monitoring"], "permissions": {}},
        *(
            {
                "name": name,
                "password": SECRETS["broker_passwords"][name],
                "tags": [],
                "permissions": {"rabbit": RIGHTS[name]},
            }
            for name in PROJECTS
        ),
    ]


def test_more_users_and_vhosts_follow(quintet):
    assert quintet.render("rabbitmq1", "broker_users", broker_extra_users=[{"name": "x"}])[4:] == [{"name": "x"}]
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


@pytest.mark.parametrize("name", PROJECTS)
def test_a_release_is_named_by_its_archive(each, name):
    for host in each.hosts():
        found = [
            each.render(host, f"django_project_{one}", project=project(each, name)) for one in ("archive", "release")
        ]
        assert found == [ARCHIVES[name], {"producer": "aaaaaaaaaaaa", "service": "bbbbbbbbbbbb"}[name]]


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
    "molecule-ha": ("ha", "10.213.25", []),
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


def test_containers_are_reached_as_servers_are(monkeypatch):
    """Over SSH, by a key and to a host that are known; the containers are the same ones."""
    monkeypatch.setenv("QUINTET_STACK", "bench")
    names, overlays = ("ansible_connection", "ansible_host", "node_name"), ["containers.yml", "ssh-containers.yml"]
    sources = ["inventories/quintet.yml", *(f"inventories/{name}" for name in overlays)]
    docker, ssh = Topology(*sources[:2]), Topology(*sources)
    assert [docker.render("web1", name) for name in names] == ["community.docker.docker", *["bench-web1"] * 2]
    assert [ssh.render("web1", name) for name in names] == ["ssh", *["bench-web1"] * 2]
    assert (ssh.render("web1", "ansible_user"), ssh.render("web1", "ansible_become")) == ("quintet", True)
    secrets = ssh.render("web1", "secrets_dir")
    assert ssh.render("web1", "ansible_ssh_common_args") == f"-F '{secrets}/ssh/config'"
    assert docker.backend("web1") == ssh.backend("web1") == "docker://bench-web1"


def test_ssh_knows_where_containers_are_and_insists_on_their_keys(monkeypatch):
    monkeypatch.setenv("QUINTET_STACK", "bench")
    sources = [f"inventories/{name}.yml" for name in ("quintet", "containers", "ssh-containers")]
    [play] = yaml.safe_load((ROOT / "playbooks/nodes/create.yml").read_text())
    [block] = [task["block"] for task in play["tasks"] if "block" in task]
    [content] = [task["ansible.builtin.copy"]["content"] for task in block if task["name"] == "Say where the hosts are"]
    topology = Topology(*sources)
    text = topology.templar("web1").template(trust_as_template(content))
    everybody, *hosts = (" ".join(part.split()) for part in text.split("Host ")[1:])
    place = f"{topology.render('web1', 'secrets_dir')}/ssh"
    assert everybody == (
        f'* IdentityFile "{place}/key" IdentitiesOnly yes StrictHostKeyChecking yes UserKnownHostsFile "{place}/%n"'
    )
    assert "bench-web1 HostName 10.213.27.13" in hosts
    assert len(hosts) == len(topology.hosts())


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
    "monitor_password": 40,
    "redis_internal_password": 40,
    "redis_passwords.producer": 40,
    "redis_passwords.service": 40,
    "broker_passwords.producer": 40,
    "broker_passwords.service": 40,
    "database_passwords.producer": 40,
    "database_passwords.producer_owner": 40,
    "database_passwords.service_owner": 40,
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
