"""Every template of every role, rendered by Ansible's templar as in a deploy, and read as its reader reads it."""

import configparser
import hashlib
import json
import re
import shlex
import subprocess

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.samples import SECRETS, UGLY, argument_spec
from tests.topology import ROOT

MANAGED = "Ansible managed"
NAMES = ("producer", "service")
# Each template: its role's group, and the items for which it is rendered (none: it is rendered once).
TEMPLATES = {
    "celery_worker/beat.service.j2": ("worker", "celery_worker_beats"),
    "celery_worker/celery.service.j2": ("worker", "celery_worker_workers"),
    "django_project/environment.j2": ("all", None),
    "django_project/quintet-manage.j2": ("all", None),
    "hardening/firewall.nft.j2": ("web", None),
    "hardening/quintet-firewall.service.j2": ("web", None),
    "hardening/updates.conf.j2": ("web", None),
    "haproxy/haproxy.cfg.j2": ("web", None),
    "haproxy/quintet.conf.j2": ("web", None),
    "postgresql/checksums.conf.j2": ("postgresql", None),
    "postgresql/sandbox.conf.j2": ("postgresql", None),
    "rabbitmq/sandbox.conf.j2": ("rabbitmq", None),
    "web/sandbox.conf.j2": ("web", None),
    "postgresql/quintet.conf.j2": ("postgresql", None),
    "postgresql/quintet_hba.conf.j2": ("postgresql", None),
    "rabbitmq/enabled_plugins.j2": ("rabbitmq", None),
    "rabbitmq/epmd.socket.j2": ("rabbitmq", None),
    "rabbitmq/rabbitmq-env.conf.j2": ("rabbitmq", None),
    "rabbitmq/rabbitmq.conf.j2": ("rabbitmq", None),
    "redis/redis.conf.j2": ("redis", "redis_instances"),
    "redis/users.acl.j2": ("redis", None),
    "web/daemon.service.j2": ("web", "__web_daemons"),
    "web/gunicorn.service.j2": ("web", "web_sites"),
    "web/gunicorn.socket.j2": ("web", "web_sites"),
    "web/nginx.conf.j2": ("web", None),
}


def loaded(path):
    """The variables of a role's file; a role need not have it."""
    return (DataLoader().load_from_file(str(path), trusted_as_template=True) or {}) if path.exists() else {}


def project(topology, name="producer", **more):
    """A project, as the contract completes its entry with more in it."""
    host = topology.hosts()[0]
    entries = [entry | (more if entry["name"] == name else {}) for entry in topology.render(host, "django_projects")]
    return next(one for one in topology.render(host, "projects", django_projects=entries) if one["name"] == name)


def templar(topology, host, role, **more):
    """What a role's template sees on a host: defaults, under the inventory, under the role's own, under the turn's."""
    known = topology.templar(host).available_variables
    variables = (
        loaded(ROOT / f"roles/{role}/defaults/main.yml")
        | known
        | loaded(ROOT / f"roles/{role}/vars/main.yml")
        | {"ansible_managed": MANAGED, "ansible_search_path": [str(ROOT / "roles" / role)], **more}
    )
    return Templar(loader=DataLoader(), variables=variables)


def render(topology, template, host=None, **more):
    """The text of a template in each turn of its loop, on the first host of its group or on the one named."""
    role, _, name = template.partition("/")
    group, loop = TEMPLATES[template]
    host = host or topology.hosts(group)[0]
    more = {"project": project(topology), **more}
    turns = [{}]
    if loop:
        expression = trust_as_template("{{ " + loop + " }}")
        turns = [{"item": item} for item in templar(topology, host, role, **more).template(expression)]
        assert turns, f"{template} is never rendered"
    source = trust_as_template((ROOT / f"roles/{role}/templates/{name}").read_text())
    return [
        templar(topology, host, role, **more, **turn).template(
            source, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": False}
        )
        for turn in turns
    ]


def lines(text):
    """The lines that are not empty and no comments."""
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pairs(text, separator):
    """Lines of a name and a value, as a dict; no name may come twice."""
    found = [tuple(part.strip() for part in line.split(separator, 1)) for line in lines(text)]
    assert len(dict(found)) == len(found), "a name comes twice"
    return dict(found)


def unit(text):
    """A systemd unit: sections of names and values."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(text.replace("\\\n", " "))
    return parser


def test_every_template_is_here():
    found = {f"{path.parent.parent.name}/{path.name}" for path in ROOT.glob("roles/*/templates/**/*") if path.is_file()}
    assert found == set(TEMPLATES)


# What none of the two projects has.
BEATS = [{"project": "x", "directory": "/x", "celery_app": "a.b", "scheduler": "s:S", "here": True}]


@pytest.mark.parametrize("template", TEMPLATES)
def test_renders_on_every_host(each, template):
    for host in each.hosts(TEMPLATES[template][0]):
        for text in render(each, template, host, celery_worker_beats=BEATS):
            assert text.strip()
            assert text.endswith("\n")
            assert "{{" not in text
            assert "None" not in text.split()


@pytest.mark.parametrize("template", ["rabbitmq/rabbitmq.conf.j2", "django_project/environment.j2"])
def test_an_undefined_name_is_an_error(onebox, template):
    broken = trust_as_template("{{ no_such_name }}")
    with pytest.raises(AnsibleError, match="no_such_name"):
        render(onebox, template, rabbitmq_port=broken, django_project_settings_module=broken)


# -- What is written where ------------------------------------------------------------------------------------------

# Each file of a role: its template (or the target of a link, or nothing: it is absent), the turn in which that is
# rendered, and a group and a mode that are not the module's.
PG, UNITS = "/etc/postgresql/17/main", "/etc/systemd/system"
FILES = {
    "hardening": {
        "/etc/quintet/firewall.nft": ("firewall.nft.j2", 0, None, None),
        f"{UNITS}/quintet-firewall.service": ("quintet-firewall.service.j2", 0, None, None),
        "/etc/apt/apt.conf.d/52quintet": ("updates.conf.j2", 0, None, None),
        "/etc/systemd/journald.conf.d/quintet.conf": ("[Journal]\nSystemMaxUse=1024M\n", 0, None, None),
        "/etc/ssh/sshd_config.d/quintet.conf": (None, 0, None, None),
    },
    "haproxy": {
        "/etc/haproxy/identity.pem": ("tls_identity", 0, "haproxy", "0640"),
        "/etc/haproxy/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/haproxy/haproxy.cfg": ("haproxy.cfg.j2", 0, None, None),
        f"{UNITS}/haproxy.service.d/quintet.conf": ("quintet.conf.j2", 0, None, None),
    },
    "postgresql": {
        f"{PG}/identity.pem": ("tls_identity", 0, "postgres", "0640"),
        f"{PG}/conf.d/quintet.conf": ("quintet.conf.j2", 0, "postgres", "0640"),
        f"{PG}/quintet_hba.conf": ("quintet_hba.conf.j2", 0, "postgres", "0640"),
        f"{UNITS}/postgresql@17-main.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        f"{UNITS}/postgresql@17-main.service.d/checksums.conf": ("checksums.conf.j2", 0, None, None),
    },
    "redis": {
        "/etc/redis/identity.pem": ("tls_identity", 0, "redis", "0640"),
        "/etc/redis/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/redis/users.acl": ("users.acl.j2", 0, "redis", "0640"),
        "/etc/redis/redis-results.conf": ("redis.conf.j2", 0, "redis", "0640"),
        "/etc/redis/redis-cache.conf": ("redis.conf.j2", 1, "redis", "0640"),
    },
    "rabbitmq": {
        "/etc/rabbitmq/rabbitmq.conf": ("rabbitmq.conf.j2", 0, "rabbitmq", "0640"),
        "/etc/rabbitmq/rabbitmq-env.conf": ("rabbitmq-env.conf.j2", 0, "rabbitmq", None),
        "/etc/rabbitmq/enabled_plugins": ("enabled_plugins.j2", 0, "rabbitmq", None),
        "/etc/rabbitmq/identity.pem": ("tls_identity", 0, "rabbitmq", "0640"),
        "/etc/rabbitmq/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/rabbitmq/definitions.json": (None, 0, "rabbitmq", None),
        f"{UNITS}/rabbitmq-server.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        f"{UNITS}/epmd.socket": ("epmd.socket.j2", 0, None, None),
    },
    "web": {
        "/etc/nginx/conf.d/quintet.conf": ("nginx.conf.j2", 0, None, None),
        f"{UNITS}/nginx.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        "/etc/nginx/sites-enabled/default": (None, 0, None, None),
        f"{UNITS}/gunicorn-producer.socket": ("gunicorn.socket.j2", 0, None, None),
        f"{UNITS}/gunicorn-producer.service": ("gunicorn.service.j2", 0, None, None),
        f"{UNITS}/relay-producer.service": ("daemon.service.j2", 0, None, None),
        "/opt/quintet/producer/environment": ("/opt/quintet/producer/environment.next", 0, None, None),
        "/opt/quintet/producer/current": ("releases/aaaaaaaaaaaa", 0, None, None),
    },
    "celery_worker": {
        f"{UNITS}/celery-producer.service": ("celery.service.j2", 0, None, None),
        "/opt/quintet/producer/environment": ("/opt/quintet/producer/environment.next", 0, None, None),
        "/opt/quintet/producer/current": ("releases/aaaaaaaaaaaa", 0, None, None),
        f"{UNITS}/celery-service.service": ("celery.service.j2", 1, None, None),
        "/opt/quintet/service/environment": ("/opt/quintet/service/environment.next", 0, None, None),
        "/opt/quintet/service/current": ("releases/bbbbbbbbbbbb", 0, None, None),
    },
}
GROUPS = {role: role for role in FILES} | {"celery_worker": "worker", "haproxy": "web", "hardening": "web"}
SECRET_FILES = {"/etc/redis/users.acl"}


def evaluated(topology, role, expression, **more):
    """The value of an expression as the role's tasks see it."""
    host = topology.hosts(GROUPS.get(role, "all"))[0]
    return templar(topology, host, role, **more).template(trust_as_template("{{ " + expression + " }}"))


@pytest.mark.parametrize("role", FILES)
def test_files(each, role):
    expected = []
    for path, (source, turn, group, mode) in FILES[role].items():
        file = {"path": path, "group": group, "mode": mode}
        if path.endswith(".json"):
            file["content"] = "{}"
        elif source is None:
            file["absent"] = True
        elif source.startswith("tls_"):
            file["secret" if source == "tls_identity" else "content"] = evaluated(each, role, source) + "\n"
        elif source.startswith("["):
            file["content"] = source
        elif source.endswith(".j2"):
            file["secret" if path in SECRET_FILES else "content"] = render(each, f"{role}/{source}")[turn]
        else:
            file["copy" if source.endswith(".next") else "link"] = source
        expected.append({key: value for key, value in file.items() if value is not None})
    found = evaluated(each, role, f"__{role}_files")
    assert sorted(found, key=lambda one: one["path"]) == sorted(expected, key=lambda one: one["path"])


def project_files(topology, **more):
    """The files of the role of projects, for one with more in its entry."""
    return evaluated(topology, "django_project", "__django_project_files", project=project(topology, **more))


def test_what_a_host_says_is_no_command_on_the_controller(onebox):
    known = {"role_path": "/r", "ansible_playbook_python": "/v/python", "django_project_archive": "/a.tar"}
    said = {"__django_project_found": {"stdout_lines": ["3.13 x86_64;echo$(echo${IFS}done)"]}}
    template = trust_as_template("{{ __django_project_bundle }}")
    # A list of words, which no shell reads.
    *words, entry = templar(onebox, "box1", "django_project", project=project(onebox), **known, **said).template(
        template
    )
    assert words == ["/v/python", "/r/files/bundle.py", "/v/uv", "/a.tar", "3.13", "x86_64;echo$(echo${IFS}done)"]
    assert json.loads(entry)["source"] == {"path": "app/producer"}


def test_files_of_a_project(each):
    commands, state = {"never": ["flush", "reset_db"]}, {"files": {"jwt.key": UGLY}}
    more = {"commands": commands, "state": state}
    assert project_files(each, **more) == [
        {
            "path": "/opt/quintet/producer/environment.next",
            "secret": render(each, "django_project/environment.j2")[0],
            "mode": "0600",
        },
        {"path": "/opt/quintet/producer/never", "content": "flush\nreset_db\n"},
        {
            "path": "/usr/local/bin/quintet-manage",
            "content": render(each, "django_project/quintet-manage.j2")[0],
            "mode": "0755",
        },
        {"path": "/opt/quintet/producer/files/jwt.key", "group": "producer", "mode": "0640", "secret": UGLY},
    ]


@pytest.mark.parametrize("role", [*FILES, "django_project"])
def test_files_are_what_the_module_takes(each, role):
    spec = argument_spec("systemd_units")["files"]["options"]
    found = evaluated(each, role, f"__{role}_files") if role in FILES else project_files(each)
    assert found
    for file in found:
        assert file.keys() <= spec.keys()
        assert len({"content", "secret", "copy", "link", "absent"} & file.keys()) == 1


# What starts anew after which files, and what reads which anew.
UNITS_OF = {
    "redis": [
        {"name": "redis-server.service", "enabled": False},
        *(
            {
                "name": f"redis-server@{name}.service",
                "restart_after": [
                    f"/etc/redis/redis-{name}.conf",
                    *(f"/etc/redis/{file}" for file in ("users.acl", "identity.pem", "authorities.pem")),
                ],
            }
            for name in ("results", "cache")
        ),
    ],
    "web": [
        {"name": "gunicorn-producer.socket", "restart_after": [f"{UNITS}/gunicorn-producer.socket"]},
        {
            "name": "gunicorn-producer.service",
            "restart_after": [
                f"{UNITS}/gunicorn-producer.service",
                "/opt/quintet/producer/environment",
                "/opt/quintet/producer/current",
            ],
        },
        {
            "name": "relay-producer.service",
            "restart_after": [
                f"{UNITS}/relay-producer.service",
                "/opt/quintet/producer/environment",
                "/opt/quintet/producer/current",
            ],
        },
        {
            "name": "nginx.service",
            "restart_after": [f"{UNITS}/nginx.service.d/sandbox.conf"],
            "reload_after": ["/etc/nginx/conf.d/quintet.conf", "/etc/nginx/sites-enabled"],
        },
    ],
    "celery_worker": [
        {
            "name": f"celery-{project}.service",
            "restart_after": [
                f"{UNITS}/celery-{project}.service",
                f"/opt/quintet/{project}/environment",
                f"/opt/quintet/{project}/current",
            ],
        }
        for project in ("producer", "service")
    ],
}


@pytest.mark.parametrize("role", UNITS_OF)
def test_units(each, role):
    assert evaluated(each, role, f"__{role}_units") == UNITS_OF[role]


@pytest.mark.parametrize(
    ("role", "name", "broken"),
    [
        ("redis", "__redis_files", {"redis_instances": [{"name": "x"}]}),
        ("web", "__web_files", {"web_sites": [{"project": "x", "directory": "/x", "release": "x"}]}),
        ("web", "__web_units", {"web_sites": [{"project": "x"}]}),
        ("celery_worker", "__celery_worker_files", {"celery_worker_workers": [{"project": "x", "directory": "/x"}]}),
        ("postgresql", "__postgresql_owners", {"postgresql_databases": [{"name": "x"}]}),
    ],
)
def test_what_is_undefined_is_an_error_and_no_file_less(onebox, role, name, broken):
    with pytest.raises(AnsibleError):
        evaluated(onebox, role, name, **broken)


def test_owners_of_databases(each):
    assert evaluated(each, "postgresql", "__postgresql_owners") == [
        {"name": name, "password": password} for name, password in SECRETS["database_passwords"].items()
    ]


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

PEER = ("local", "all", "postgres", "peer")
ADMITTED = {
    "onebox": {
        PEER,
        ("hostssl", "producer", "producer", "127.0.0.1/32", "scram-sha-256"),
        ("hostssl", "service", "service", "127.0.0.1/32", "scram-sha-256"),
    },
    "quintet": {
        PEER,
        ("hostssl", "producer", "producer", "10.213.171.13/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.171.14/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.171.14/32", "scram-sha-256"),
    },
    "wide": {
        PEER,
        ("hostssl", "producer", "producer", "10.213.10.11/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.12/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.13/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.14/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.12/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.13/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.14/32", "scram-sha-256"),
    },
}


@pytest.mark.parametrize("name", ADMITTED)
def test_postgresql_admits_owners_from_their_hosts_and_nobody_else(request, name):
    [text] = render(request.getfixturevalue(name), "postgresql/quintet_hba.conf.j2")
    rules = [tuple(shlex.split(line)) for line in lines(text)]
    assert set(rules) == ADMITTED[name]
    assert len(rules) == len(ADMITTED[name])


def test_postgresql_admits_ipv6(quintet):
    databases = [{"name": "x", "password": "x", "clients": ["fd00::1"]}]
    [text] = render(quintet, "postgresql/quintet_hba.conf.j2", postgresql_databases=databases)
    assert 'hostssl "x" "x" fd00::1/128 scram-sha-256' in lines(text)


def postgresql(topology, **more):
    """The settings of PostgreSQL, unquoted."""
    [text] = render(topology, "postgresql/quintet.conf.j2", **more)
    found = pairs(text, "=")
    assert all(re.fullmatch(r"'([^']|'')*'", value) for value in found.values())
    return {name: value[1:-1].replace("''", "'") for name, value in found.items()}


def test_postgresql_settings(quintet):
    found = postgresql(quintet)
    expected = {
        "listen_addresses": "127.0.0.1,10.213.171.10",
        "port": "5432",
        "password_encryption": "scram-sha-256",
        "hba_file": "/etc/postgresql/17/main/quintet_hba.conf",
        "shared_buffers": "512MB",
        "effective_cache_size": "1536MB",
        "maintenance_work_mem": "128MB",
        "work_mem": "10MB",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_postgresql_takes_more_settings(onebox):
    found = postgresql(onebox, postgresql_settings={"port": 1, "search_path": "it's"})
    assert (found["port"], found["search_path"]) == ("1", "it's")
    assert found["listen_addresses"] == "127.0.0.1"


def test_postgresql_gets_checksums_before_its_first_start_only(quintet):
    [text] = render(quintet, "postgresql/checksums.conf.j2")
    before = shlex.split(unit(text)["Service"]["ExecStartPre"])
    assert before[:2] == ["/bin/sh", "-c"]
    tested, enabled = before[2].split("||")
    data = "/var/lib/postgresql/17/main"
    assert tested.split() == ["test", "-e", f"{data}/postmaster.opts"]
    tool = "/usr/lib/postgresql/17/bin/pg_checksums"
    assert enabled.split() == ["exec", tool, "--enable", "--pgdata", data]


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, "/x/current/gunicorn.conf.py"), ("conf/gunicorn.py", "conf/gunicorn.py"), ("none", "/dev/null")],
)
def test_the_configuration_of_gunicorn(quintet, config, expected):
    site = {"project": "x", "directory": "/x", "application": "x.wsgi"} | ({"config": config} if config else {})
    found = evaluated(quintet, "web", "__web_gunicorn", web_sites=[site])
    assert found == {"x": f"--config {expected} x.wsgi"}


# -- Between hosts ----------------------------------------------------------------------------------------------------


def test_haproxy_speaks_with_none_but_the_service_itself(quintet):
    [text] = render(quintet, "haproxy/haproxy.cfg.j2", "worker1")
    found = dict(re.findall(r"bind (\S+)\n    server (.*)\n", text))
    tls = "ssl verify required ca-file /etc/haproxy/authorities.pem crt /etc/haproxy/identity.pem"
    rabbitmq, redis = (
        f"sni str({name}) verifyhost {name}" for name in ("rabbitmq.quintet.internal", "redis.quintet.internal")
    )
    assert found == {
        # Its clients encrypt by themselves.
        "127.0.1.10:5432": "postgresql1 10.213.171.10:5432",
        "127.0.1.10:5672": f"rabbitmq1 10.213.171.12:5671 {tls} {rabbitmq}",
        "127.0.1.10:6379": f"redis1 10.213.171.11:6379 {tls} {redis}",
        "127.0.1.10:6380": f"redis1 10.213.171.11:6380 {tls} {redis}",
    }
    assert "ssl-min-ver TLSv1.3" in text


def let_in(topology, host):
    """Who is let in by a host's firewall, as (source or None, port)."""
    [text] = render(topology, "hardening/firewall.nft.j2", host)
    assert "policy drop" in text
    found = re.findall(r"^ +(?:ip6? saddr (\S+) )?tcp dport (\d+) accept$", text, re.MULTILINE)
    return {(source or None, int(port)) for source, port in found}


def test_the_firewall_lets_in_whom_the_contract_names(quintet, onebox):
    apps = ("10.213.171.13", "10.213.171.14")
    assert let_in(quintet, "postgresql1") == {(None, 22), *((app, 5432) for app in apps)}
    assert let_in(quintet, "redis1") == {(None, 22), *((app, port) for app in apps for port in (6379, 6380))}
    management = ("10.213.171.1", 15672)
    assert let_in(quintet, "rabbitmq1") == {(None, 22), management, *((app, 5671) for app in apps)}
    assert let_in(quintet, "web1") == {(None, 22), (None, 80)}
    assert let_in(quintet, "worker1") == {(None, 22)}
    assert let_in(onebox, "box1") == {(None, 22), (None, 80), ("10.213.88.1", 15672)}


def test_the_firewall_lets_in_what_a_site_names(quintet):
    extra = [{"port": 9100, "sources": ["192.0.2.5"]}, {"port": 9200}]
    rules = quintet.render("worker1", "hardening_rules", firewall_extra_rules=extra)
    [text] = render(quintet, "hardening/firewall.nft.j2", "worker1", hardening_rules=rules)
    assert "ip saddr 192.0.2.5 tcp dport 9100 accept" in text
    assert "        tcp dport 9200 accept" in text


def test_the_firewall_speaks_ipv6(quintet):
    rules = [{"port": 99, "sources": ["fd00::1", "192.0.2.0/24"]}]
    [text] = render(quintet, "hardening/firewall.nft.j2", "web1", hardening_rules=rules)
    assert "ip6 saddr fd00::1 tcp dport 99 accept" in text
    assert "ip saddr 192.0.2.0/24 tcp dport 99 accept" in text


@pytest.mark.parametrize("role", ["postgresql", "rabbitmq", "web"])
def test_the_distribution_s_units_are_in_the_sandbox(quintet, role):
    [text] = render(quintet, f"{role}/sandbox.conf.j2")
    service = unit(text)["Service"]
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["ProtectHome"]) == ("strict", "yes", "yes")
    assert service["ReadWritePaths"]
    # nginx alone begins as root, and gives that up itself.
    assert bool(service["CapabilityBoundingSet"]) == (role == "web")


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_redis_instances(quintet):
    found = {pairs(text, " ")["tls-port"]: pairs(text, " ") for text in render(quintet, "redis/redis.conf.j2")}
    assert {port: (one["maxmemory"], one["maxmemory-policy"], one["appendonly"]) for port, one in found.items()} == {
        "6379": ("1024mb", "noeviction", "yes"),
        "6380": ("512mb", "allkeys-lfu", "no"),
    }
    for one in found.values():
        assert one["bind"].split() == ["127.0.0.1", "10.213.171.11"]
        assert one["aclfile"] == "/etc/redis/users.acl"
        assert (one["port"], one["tls-auth-clients"], one["tls-protocols"]) == ("0", "yes", "TLSv1.3")
    # Instances share a directory: no two of them write one file.
    for name in ("dbfilename", "appenddirname"):
        assert len({one[name] for one in found.values()}) == len(found)


def test_redis_users(each):
    [text] = render(each, "redis/users.acl.j2")
    users = {line.split()[1]: line.split()[2:] for line in text.splitlines()}
    assert all(line.startswith("user ") for line in text.splitlines())
    assert users.keys() == {"default", "monitor", *NAMES}
    assert users["default"] == ["off"]
    for name, password in {"monitor": SECRETS["monitor_password"], **SECRETS["redis_passwords"]}.items():
        assert users[name][:2] == ["on", f"#{hashlib.sha256(password.encode()).hexdigest()}"]
        assert "nopass" not in users[name]
        assert password not in text
    assert users["monitor"][2:] == ["+info", "+ping"]
    for name in NAMES:
        assert users[name].index("-@dangerous") > users[name].index("+@all")
        assert [rule for rule in users[name] if "select" in rule] == ["-select", "+select|0", "+select|1"]


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------


def rabbitmq(topology, **more):
    """The settings of RabbitMQ."""
    [text] = render(topology, "rabbitmq/rabbitmq.conf.j2", **more)
    return pairs(text, " = ")


def test_rabbitmq_settings(quintet):
    found = rabbitmq(quintet)
    assert {name: value for name, value in found.items() if name.startswith("listeners")} == {
        "listeners.tcp": "none",
        "listeners.ssl.1": "127.0.0.1:5671",
        "listeners.ssl.2": "10.213.171.12:5671",
    }
    assert (found["ssl_options.verify"], found["ssl_options.fail_if_no_peer_cert"]) == ("verify_peer", "true")
    assert [value for name, value in found.items() if name.startswith("ssl_options.versions")] == ["tlsv1.3"]
    assert (found["management.tcp.ip"], found["management.tcp.port"]) == ("10.213.171.12", "15672")
    assert found["vm_memory_high_watermark.absolute"] == "1536MiB"
    assert not [name for name in found if name.startswith("default_")], "these act on an empty broker only"
    assert not {"True", "False"} & set(found.values()), "its booleans are lower-case"


def test_rabbitmq_takes_more_settings(onebox):
    found = rabbitmq(onebox, rabbitmq_settings={"heartbeat": 30, "log.console.level": "debug"})
    assert (found["heartbeat"], found["log.console.level"]) == ("30", "debug")
    assert found["listeners.ssl.1"] == "127.0.0.1:5671"
    assert "listeners.ssl.2" not in found


def test_the_management_page_is_behind_tls(quintet):
    """But on the containers of this machine, where nothing leaves it."""
    found = rabbitmq(quintet, rabbitmq_management_tls=True)
    assert {name for name in found if name.startswith("management.tcp")} == set()
    assert (found["management.ssl.ip"], found["management.ssl.port"]) == ("10.213.171.12", "15672")
    assert {found[f"management.ssl.versions.{number}"] for number in (1, 2)} == {"tlsv1.3", "tlsv1.2"}


def test_rabbitmq_keeps_the_cluster_to_itself(each):
    host = each.hosts("rabbitmq")[0]
    [text] = render(each, "rabbitmq/rabbitmq-env.conf.j2")
    words = dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)
    assert words["NODENAME"] == f"rabbit@{host}.quintet.internal"
    assert words["USE_LONGNAME"] == "true"
    assert words["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert words["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] == "-kernel inet_dist_use_interface {127,0,0,1}"
    [socket] = render(each, "rabbitmq/epmd.socket.j2")
    assert unit(socket)["Socket"]["ListenStream"] == "127.0.0.1:4369"


def test_rabbitmq_plugins(each):
    assert render(each, "rabbitmq/enabled_plugins.j2") == ["[rabbitmq_management].\n"]


# -- Projects ---------------------------------------------------------------------------------------------------------


def environment(text):
    """Variables as systemd reads an EnvironmentFile: in double quotes, a backslash frees only " \\ ` and $."""
    found = {}
    for line in lines(text):
        name, value = re.fullmatch(r'([A-Z_]+)="((?:[^"\\]|\\.)*)"', line).groups()
        found[name] = re.sub(r'\\(["\\`$])', r"\1", value)
    return found


def test_environment_says_what_the_contract_says(each):
    for name in NAMES:
        one = project(each, name)
        [text] = render(each, "django_project/environment.j2", project=one)
        expected = each.render(each.hosts()[0], "project_environment", project=one)
        assert environment(text) == {"DJANGO_SETTINGS_MODULE": f"{name}.settings", **expected}


def test_an_overlay_stands_before_the_settings(onebox):
    one = project(onebox, settings_overlay=True)
    found = environment(render(onebox, "django_project/environment.j2", project=one)[0])
    assert (found["DJANGO_SETTINGS_MODULE"], found["QUINTET_SETTINGS"]) == ("quintet_settings", "producer.settings")


def test_environment_keeps_ugly_values(onebox):
    [text] = render(onebox, "django_project/environment.j2", project=project(onebox, environment={"UGLY": UGLY}))
    found = environment(text)
    assert found["UGLY"] == UGLY
    assert found["SECRET_KEY"] == SECRETS["django_secret_keys"]["producer"]


def test_quintet_manage_is_a_shell_script(each, tmp_path):
    [text] = render(each, "django_project/quintet-manage.j2")
    assert text.splitlines()[0] == "#!/bin/sh"
    script = tmp_path / "quintet-manage"
    script.write_text(text)
    run = ["sh", str(script)]
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    usage = subprocess.run([*run, "producer"], capture_output=True, text=True, check=False)
    assert (usage.returncode, usage.stderr.split()[0]) == (64, "usage:")
    for arguments, says in ((["no-such", "x"], "current"), (["--release", "r1", "no-such", "x"], "releases/r1")):
        missing = subprocess.run([*run, *arguments], capture_output=True, text=True, check=False)
        assert missing.returncode == 66
        assert f"no-such has no {says} on this host" in missing.stderr


@pytest.mark.parametrize(("arguments", "release"), [([], "r1"), (["--release", "r2"], "r2")])
def test_quintet_manage_runs_a_command_in_a_release(onebox, tmp_path, arguments, release):
    [text] = render(onebox, "django_project/quintet-manage.j2", django_project_root=str(tmp_path))
    for name in ("r1", "r2"):
        (tmp_path / "app/releases" / name).mkdir(parents=True)
    (tmp_path / "app/current").symlink_to("releases/r1")
    (tmp_path / "app/never").write_text("flush\n")
    stand_in = tmp_path / "bin/systemd-run"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{stand_in.parent}:/usr/bin:/bin"}
    command = ["sh", "-c", text, "quintet-manage", *arguments, "app", "migrate", "a  b"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    home = tmp_path / "app"
    assert ran[-5:] == [f"{home}/releases/{release}/venv/bin/python", "-m", "django", "migrate", "a  b"]
    assert {"--uid=app", "--gid=app", "--wait", "--property=NoNewPrivileges=yes"} <= set(ran)
    assert f"--property=WorkingDirectory={home}/releases/{release}/project" in ran
    assert f"--property=EnvironmentFile={home}/environment{'.next' if arguments else ''}" in ran
    assert f"--setenv=STATIC_ROOT={home}/releases/{release}/static" in ran
    # What must never run does not; what only begins so, does.
    for name, status in (("flush", 77), ("flush_cache", 0), ("--flush", 0)):
        command[-2:] = [name, "flush"]
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == status
    # Another program than Django's, as a unit with a name.
    if not arguments:
        command[4:] = ["--module", "gunicorn", "--unit", "try.service", "app", "flush"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert ran[-3:] == ["-m", "gunicorn", "flush"]
        assert "--unit=try.service" in ran


# -- Units ------------------------------------------------------------------------------------------------------------


def test_celery_unit(each):
    _, text = render(each, "celery_worker/celery.service.j2")
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/opt/quintet/service/current/venv/bin/celery", "--quiet", "--app", "service", "worker"),
        *("--hostname", "service@%H", "--queues", "service", "--concurrency", "4"),
        *("-O", "fair", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]
    assert_unit_of_project(service, "service")
    assert service["KillMode"] == "mixed", "SIGTERM to the main process alone is the warm stop"
    assert int(service["TimeoutStopSec"]) > 600
    assert (service["MemoryHigh"], service["MemoryMax"]) == ("819M", "1024M")
    assert (service["Type"], service["NotifyAccess"], service["WatchdogSec"]) == ("notify", "main", "60")


def test_celery_unit_with_every_key(onebox):
    worker = {
        **{"name": "x-slow", "project": "x", "directory": "/x", "celery_app": "a.b", "queues": ["p", "q"]},
        **{"pool": "threads", "concurrency": 3, "max_tasks_per_child": 5, "memory_max_mb": 100},
        **{"time_limit_seconds": 60, "soft_time_limit_seconds": 50, "stop_timeout_seconds": 7},
    }
    [text] = render(onebox, "celery_worker/celery.service.j2", celery_worker_workers=[worker])
    service = unit(text)["Service"]
    assert service["ExecStart"].split()[4:] == [
        *("worker", "--hostname", "x-slow@%H", "--queues", "p,q", "--pool", "threads", "--concurrency", "3"),
        *("--max-tasks-per-child", "5", "--time-limit", "60", "--soft-time-limit", "50"),
        *("-O", "fair", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]
    assert (service["TimeoutStopSec"], service["MemoryHigh"], service["MemoryMax"]) == ("7", "80M", "100M")
    assert (service["Type"], "WatchdogSec" in service) == ("exec", False), "not every project speaks to systemd"


def test_a_worker_without_queues_has_celerys_own(onebox):
    worker = {"name": "x", "project": "x", "directory": "/x", "celery_app": "x"}
    [text] = render(onebox, "celery_worker/celery.service.j2", celery_worker_workers=[worker])
    assert "--queues celery -O" in " ".join(unit(text)["Service"]["ExecStart"].split())


def test_beat_unit(onebox):
    [text] = render(onebox, "celery_worker/beat.service.j2", celery_worker_beats=BEATS)
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/x/current/venv/bin/celery", "--quiet", "--app", "a.b", "beat", "--scheduler", "s:S"),
        *("--schedule", "%S/x/beat-schedule", "--pidfile=", "--loglevel", "INFO"),
    ]
    units = evaluated(onebox, "celery_worker", "__celery_worker_units", celery_worker_beats=BEATS)
    assert (units[-1]["name"], units[-1]["enabled"]) == ("beat-x.service", True)
    elsewhere = [BEATS[0] | {"here": False}]
    units = evaluated(onebox, "celery_worker", "__celery_worker_units", celery_worker_beats=elsewhere)
    assert (units[-1]["name"], units[-1]["enabled"]) == ("beat-x.service", False)


def test_daemon_unit(each):
    [text] = render(each, "web/daemon.service.j2")
    service = unit(text)["Service"]
    assert service["ExecStart"] == "/opt/quintet/producer/current/venv/bin/python -m django relay"
    assert_unit_of_project(service, "producer")
    assert (service["Type"], service["NotifyAccess"], service["WatchdogSec"]) == ("notify", "main", "60")


def test_daemon_unit_with_every_key(onebox):
    daemon = {"name": "d", "command": "run --all", "memory_max_mb": 100}
    sites = [{"project": "x", "directory": "/x", "daemons": [daemon], "application": "x"}]
    sites += [{"project": "y", "directory": "/y", "application": "y"}]
    [text] = render(onebox, "web/daemon.service.j2", web_sites=sites)
    service = unit(text)["Service"]
    assert service["ExecStart"] == "/x/current/venv/bin/python -m django run --all"
    assert (service["Type"], service["MemoryHigh"], service["MemoryMax"]) == ("exec", "80M", "100M")


def test_gunicorn_unit(each):
    [text] = render(each, "web/gunicorn.service.j2")
    [socket] = render(each, "web/gunicorn.socket.j2")
    assert unit(text)["Unit"]["Requires"] == "gunicorn-producer.socket"
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/opt/quintet/producer/current/venv/bin/gunicorn", "--config", "gunicorn.conf.py"),
        "producer.wsgi:application",
    ]
    assert_unit_of_project(service, "producer")
    assert service["KillMode"] == "mixed"
    listens = unit(socket)["Socket"]
    assert (listens["ListenStream"], listens["SocketUser"]) == ("/run/gunicorn-producer.sock", "www-data")
    assert listens["SocketMode"] == "0600"


def test_gunicorn_unit_with_every_key(onebox):
    site = {"project": "x", "directory": "/x", "application": "x.asgi:application", "interface": "asgi", "prefix": "/s"}
    site |= {"worker_class": "a.B", "workers": 3, "threads": 2, "timeout_seconds": 9, "memory_max_mb": 100}
    service = unit(render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0])["Service"]
    assert service["ExecStart"].split()[1:] == [
        *("--config", "/x/current/gunicorn.conf.py", "--worker-class", "a.B"),
        *("--workers", "3", "--threads", "2", "--timeout", "9"),
        "x.asgi:application",
    ]
    assert service["MemoryMax"] == "100M"
    assert "Environment=SCRIPT_NAME=/s" in render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0]


def test_a_try_is_what_the_service_will_be(onebox):
    sites = [
        {"project": "x", "directory": "/x", "application": "x:x", "release": "r", "host_names": ["a", "b"]},
        {"project": "y", "directory": "/y", "application": "y:y", "release": "r", "host_names": ["c"], "prefix": "/y"},
    ]
    sites[1]["health"] = {"path": "/ok", "statuses": [404], "seconds": 5}
    one, two = evaluated(onebox, "web", "__web_tries", web_sites=sites)
    assert (one["host"], one["path"], one["prefix"], one["seconds"], one["tcp"]) == ("a", "/", "", 30, False)
    assert {200, 302, 404} < set(one["statuses"])
    assert 500 not in one["statuses"]
    assert (two["path"], two["prefix"], two["statuses"], two["seconds"]) == ("/ok", "/y", [404], 5)
    for site, tried in zip(sites, (one, two), strict=True):
        service = unit(render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0])["Service"]
        assert service["ExecStart"].split(maxsplit=1)[1] == tried["gunicorn"]


def assert_unit_of_project(service, project):
    """A service of a project runs as its user, with its environment, from its current release, in the sandbox."""
    assert (service["User"], service["Group"], service["StateDirectory"]) == (project, project, project)
    assert service["EnvironmentFile"] == f"/opt/quintet/{project}/environment"
    assert service["WorkingDirectory"] == f"/opt/quintet/{project}/current/project"
    assert service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""


# -- nginx ------------------------------------------------------------------------------------------------------------

SITES = [
    {"project": "one", "directory": "/o/one", "application": "x", "host_names": ["a.example", "b.example"]},
    {"project": "two", "directory": "/o/two", "application": "x", "host_names": ["c.example"]},
]


def servers(text):
    """The directives of each server block of nginx, as (name, rest)."""
    assert text.count("{") == text.count("}")
    blocks = re.findall(r"^server \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    return [re.findall(r"^\s*(\w+) ([^;{]+);$", block, re.MULTILINE) for block in blocks]


def test_nginx_serves_the_site(each):
    [text] = render(each, "web/nginx.conf.j2")
    [server] = servers(text)
    assert ("listen", "80 default_server") in server
    assert ("server_name", "localhost") in server
    assert ("alias", "/opt/quintet/producer/current/static/") in server
    assert ("proxy_pass", "http://producer") in server
    assert "server unix:/run/gunicorn-producer.sock fail_timeout=0;" in text
    assert ("proxy_set_header", "X-Real-IP $remote_addr") in server


def test_nginx_serves_several_sites_and_the_first_by_default(onebox):
    one, two = servers(render(onebox, "web/nginx.conf.j2", web_sites=SITES, web_port=8080)[0])
    assert ("listen", "8080 default_server") in one
    assert ("listen", "8080") in two
    assert ("server_name", "a.example b.example") in one
    assert ("proxy_pass", "http://two") in two


def test_nginx_serves_a_site_with_every_key(onebox):
    site = SITES[0] | {"prefix": "/shop", "request_mb": 20, "static_url": "/shop/static/", "media_url": "/shop/media/"}
    [server] = servers(render(onebox, "web/nginx.conf.j2", web_sites=[site | {"timeout_seconds": 60}])[0])
    assert ("client_max_body_size", "20m") in server
    assert ("proxy_pass", "http://one") in server, "a WSGI server takes the prefix off itself"
    assert ("proxy_read_timeout", "65s") in server
    assert [value for name, value in server if name == "alias"] == ["/o/one/current/static/", "/var/lib/one/media/"]
    text = render(onebox, "web/nginx.conf.j2", web_sites=[site | {"interface": "asgi", "static_url": ""}])[0]
    [server] = servers(text)
    assert ("proxy_pass", "http://one/") in server
    assert ("proxy_set_header", "Upgrade $http_upgrade") in server
    assert "map $http_upgrade $quintet_connection {" in text
    assert "/current/static/" not in text
    assert re.findall(r"location (\S+) \{", text) == ["@too_large", "/shop/media/", "/shop/"]


def test_nginx_has_one_server_for_sites_of_one_name(onebox):
    sites = [SITES[1], SITES[0] | {"prefix": "/one"}, SITES[0] | {"project": "three"}]
    text = render(onebox, "web/nginx.conf.j2", web_sites=sites)[0]
    one, two = servers(text)
    assert [value for name, value in one if name == "proxy_pass"] == ["http://one", "http://three"]
    assert ("listen", "80 default_server") in two
    assert ("listen", "80") in one
