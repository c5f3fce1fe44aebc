"""Entries of projects that say as much as an entry can: each option is accepted, and reaches a role that knows it."""

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from tests.test_specs import described
from tests.topology import ROOT

WORKER = {
    "queues": ["a", "b"],
    "pool": "prefork",
    "concurrency": 2,
    "max_tasks_per_child": 10,
    "time_limit_seconds": 60,
    "soft_time_limit_seconds": 50,
    "memory_max_mb": 200,
    "watchdog_seconds": 60,
    "stop_timeout_seconds": 70,
}
FULL = {
    "name": "full",
    "source": {"path": "x", "root": "back/end"},
    "dependencies": {
        "requirements": ["a.txt"],
        "require_hashes": True,
        "overrides": ["x==1"],
        "extra": ["y"],
        "index_url": "https://index.example.org/simple",
        "build_packages": ["gcc"],
        "packages": ["libpq5"],
    },
    "settings_module": "full.settings",
    "system_check": False,
    "settings_overlay": True,
    "environment": {"HOST": "{database.host}"},
    "secrets": {"KEY": "k"},
    "broker": {
        "vhost": "v",
        "user": "u",
        "queue_type": "quorum",
        "permissions": {"configure": "c", "write": "w", "read": "r"},
    },
    "redis_database": 40,
    "database": {"makes_tables": False},
    "hosts": ["web1", "worker1"],
    "web": {
        "application": "full.asgi:application",
        "interface": "asgi",
        "worker_class": "a.B",
        "workers": 2,
        "threads": 3,
        "timeout_seconds": 40,
        "config": "gunicorn.conf.py",
        "health": {"path": "/ok", "statuses": [200], "tcp": False, "seconds": 9},
        "host_names": ["full.example.org"],
        "prefix": "/full",
        "request_mb": 5,
        "static_url": "/full/static/",
        "media_url": "/full/media/",
        "media_root": "uploads",
        "memory_max_mb": 300,
        "limits": [{"path": "/login", "per_minute": 9, "burst": 2}],
        "open_paths": ["/full/ready"],
        "daemons": [{"name": "d", "command": "run", "watchdog_seconds": 9, "memory_max_mb": 100}],
    },
    "worker": {"celery_app": "full", **WORKER, "more": [{"name": "slow", **WORKER}], "beat": {"scheduler": "s:S"}},
    "commands": {"release": ["migrate"], "host": ["h"], "after": ["a"], "after_host": ["b"], "never": ["n"]},
    "state": {"paths": ["media"], "files": {"f": "x"}},
    "gate": ["g"],
}
SOURCES = [
    {"path": "x", "root": "y"},
    {"git": {"repository": "r", "version": "v"}},
    {"archive": "a.tar"},
    {"package": {"name": "n", "version": "1", "extras": ["e"]}},
]
GIVEN = {
    "archives": {"full": "/x/.cache/full/dddddddddddd.tar"},
    "database_passwords": {"full": "x", "full_owner": "x"},
    "django_secret_keys": {"full": "x"},
    "redis_passwords": {"full": "x"},
    "broker_passwords": {"u": "x", "django": "x"},
    "ansible_playbook_python": "/python",
}
INPUTS = {"web1": ("web",), "worker1": ("celery_worker",), "postgresql1": ("postgresql",), "rabbitmq1": ("rabbitmq",)}


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def errors(spec, values):
    """What Ansible finds wrong with values of these options."""
    return ArgumentSpecValidator(spec).validate(values).error_messages


def given(option, value):
    """The names of the options, and of those in them, that a value gives."""
    for name, inner in option.items():
        if name in value:
            yield name
            found = value[name]
            for one in found if isinstance(found, list) else [found]:
                if isinstance(one, dict):
                    yield from (f"{name}.{path}" for path in given(inner.get("options", {}), one))


OPTIONS = load("playbooks/vars/settings.yml")["django_projects"]["options"]


def test_the_entries_here_have_every_option():
    found = {path for source in SOURCES for path in given(OPTIONS, FULL | {"source": source})}
    assert found == {path for path, _ in described(OPTIONS)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: next(iter(source)))
def test_the_settings_take_every_option(source):
    assert not errors(OPTIONS, FULL | {"source": source})


@pytest.mark.parametrize("host", INPUTS)
def test_the_roles_take_what_every_option_becomes(quintet, host):
    more = GIVEN | {"django_projects": [FULL]}
    for role in INPUTS[host]:
        spec = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
        known = quintet.templar(host, **more).available_variables
        values = {name: quintet.render(host, name, **more) for name in spec if name in known}
        assert values
        assert not errors(spec, values)


@pytest.mark.parametrize("host", ["web1", "worker1"])
def test_the_role_of_projects_takes_what_every_option_becomes(quintet, host):
    more = GIVEN | {"django_projects": [FULL]}
    [project] = quintet.render(host, "projects", **more)
    entries = load("roles/django_project/meta/argument_specs.yml")["argument_specs"]
    spec = entries["main"]["options"]
    known = quintet.templar(host, **more).available_variables
    values = {name: quintet.render(host, name, project=project, **more) for name in spec if name in known}
    assert {"django_project_never", "django_project_state", "django_project_entry"} <= values.keys()
    assert not errors(spec, values)
    assert values["django_project_environment"]["HOST"] == "postgresql.quintet.internal"
    assert values["django_project_settings_module"] == "quintet_settings"
