"""What Quintet lays beside a project's source, and the scripts that make a release of it on a host."""

import getpass
import http.server
import json
import os
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import threading
from types import SimpleNamespace

import pytest

from tests.topology import ROOT

FILES = ROOT / "roles/django_project/files"
SETTINGS = """
SECRET_KEY = "theirs"
DEBUG = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.staticfiles"]
STATIC_URL = "/static/"
ROOT_URLCONF = "shop.urls"
"""


def write(directory, files):
    """Write files into a directory, which is given back."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def python(directory, *arguments, **environment):
    """Run this Python in a directory, with its modules and Quintet's: gives the finished process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(FILES), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
    )


# -- quintet_settings.py -----------------------------------------------------------------------------------------------

ENVIRONMENT = {
    "DATABASE_URL": "postgresql://shop:p%40%2Fss%25@db.example.org:6432/sh%20op?sslmode=require",
    "CACHE_URL": "redis://django:p%40ss@redis.example.org:6380/3",
    "CELERY_BROKER_URL": "amqp://shop:p@broker.example.org:5672/shop",
    "CELERY_RESULT_BACKEND": "redis://django:p@redis.example.org:6379/2",
    "SECRET_KEY": "ours",
    "ALLOWED_HOSTS": "shop.example.org, www.example.org",
    "STATIC_ROOT": "/static",
    "MEDIA_ROOT": "/media",
}


@pytest.fixture
def overlay(tmp_path):
    """Gives a function: the settings over a module with this text, in this environment."""

    def settings(text, environment=ENVIRONMENT):
        write(tmp_path, {"theirs.py": text})
        program = (
            "import json, quintet_settings as s; print(json.dumps({n: v for n, v in vars(s).items() if n.isupper()}))"
        )
        result = python(tmp_path, "-c", program, QUINTET_SETTINGS="theirs", **environment)
        assert result.returncode == 0, result.stderr
        return {name: value for name, value in json.loads(result.stdout).items() if not name.startswith("_")}

    return settings


def test_hard_coded_settings_are_replaced(overlay):
    made = overlay(
        SETTINGS
        + """
ALLOWED_HOSTS = ["*"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "ATOMIC_REQUESTS": True,
                "OPTIONS": {"timeout": 20}},
    "old": {"ENGINE": "django.db.backends.sqlite3", "NAME": "old"},
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "KEY_PREFIX": "shop",
                      "OPTIONS": {"MAX_ENTRIES": 1}}, "local": {"BACKEND": "x"}}
MEDIA_ROOT = "media"
"""
    )
    assert made["DATABASES"]["default"] == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "sh op",
        "USER": "shop",
        "PASSWORD": "p@/ss%",
        "HOST": "db.example.org",
        "PORT": "6432",
        "OPTIONS": {"sslmode": "require"},
        "ATOMIC_REQUESTS": True,
    }
    assert made["DATABASES"]["old"]["NAME"] == "old"
    assert made["CACHES"] == {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": ENVIRONMENT["CACHE_URL"],
            "KEY_PREFIX": "shop",
        },
        "local": {"BACKEND": "x"},
    }
    expected = {
        "DEBUG": False,
        "SECRET_KEY": "ours",
        "ALLOWED_HOSTS": ["shop.example.org", "www.example.org"],
        "STATIC_ROOT": "/static",
        "MEDIA_ROOT": "/media",
        "ROOT_URLCONF": "shop.urls",
        "CELERY_BROKER_URL": ENVIRONMENT["CELERY_BROKER_URL"],
        "CELERY_RESULT_BACKEND": ENVIRONMENT["CELERY_RESULT_BACKEND"],
    }
    assert {name: made[name] for name in expected} == expected
    assert not {"BROKER_URL", "RESULT_BACKEND", "CSRF_TRUSTED_ORIGINS"} & set(made)


def test_what_is_theirs_for_the_same_services_stays(overlay):
    made = overlay("""
DATABASES = {"default": {"ENGINE": "django.contrib.gis.db.backends.postgis", "HOST": "localhost",
                         "OPTIONS": {"pool": True, "service": "theirs"}}}
CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://localhost",
                      "OPTIONS": {"CLIENT_CLASS": "x"}}}
""")
    assert made["DATABASES"]["default"]["ENGINE"] == "django.contrib.gis.db.backends.postgis"
    assert made["DATABASES"]["default"]["HOST"] == "db.example.org"
    assert made["DATABASES"]["default"]["OPTIONS"] == {"pool": True, "sslmode": "require"}
    assert made["CACHES"]["default"] == {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": ENVIRONMENT["CACHE_URL"],
        "OPTIONS": {"CLIENT_CLASS": "x"},
    }


def test_each_name_that_they_have_for_the_broker_is_replaced(overlay):
    made = overlay("""
BROKER_URL = SHOP_BROKER_URL = "redis://localhost"
BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 1}
BROKER_USE_SSL = {"ssl_cert_reqs": 0}
RESULT_BACKEND = SHOP_RESULT_BACKEND = "django-db"
CELERY_BROKER_URL = "amqp://localhost"
CELERY_BROKER_READ_URL = "amqp://elsewhere"
CELERY_BROKER_TRANSPORT_OPTIONS = {"confirm_publish": True}
""")
    broker, results = ENVIRONMENT["CELERY_BROKER_URL"], ENVIRONMENT["CELERY_RESULT_BACKEND"]
    for name in ("BROKER_URL", "SHOP_BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL"):
        assert made[name] == broker, name
    for name in ("RESULT_BACKEND", "SHOP_RESULT_BACKEND", "CELERY_RESULT_BACKEND"):
        assert made[name] == results, name
    assert made["BROKER_TRANSPORT_OPTIONS"] == {}, "those of Redis, for RabbitMQ"
    assert made["BROKER_USE_SSL"] is False
    assert made["CELERY_BROKER_TRANSPORT_OPTIONS"] == {"confirm_publish": True}


def test_what_is_not_given_stays(overlay):
    none = dict.fromkeys(ENVIRONMENT, "")
    made = overlay('SECRET_KEY = "theirs"\nCELERY_BROKER_URL = "memory://"\nCSRF_TRUSTED_ORIGINS = ["a"]\n', none)
    assert made == {
        **{"SECRET_KEY": "theirs", "CELERY_BROKER_URL": "memory://", "CSRF_TRUSTED_ORIGINS": ["a"]},
        "DEBUG": False,
    }


def test_origins_are_given(overlay):
    made = overlay("", ENVIRONMENT | {"CSRF_TRUSTED_ORIGINS": "https://a.example.org,https://b.example.org"})
    assert made["CSRF_TRUSTED_ORIGINS"] == ["https://a.example.org", "https://b.example.org"]


# -- gunicorn.conf.py --------------------------------------------------------------------------------------------------


def gunicorn(monkeypatch, **environment):
    """Gunicorn's settings in an environment."""
    for name in ("WEB_INTERFACE", "WEB_CONCURRENCY", "WEB_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(FILES / "gunicorn.conf.py"))


def test_gunicorn_takes_its_settings(monkeypatch):
    made = gunicorn(monkeypatch, WEB_CONCURRENCY="3", WEB_THREADS="5")
    assert (made["workers"], made["threads"], made["worker_class"]) == (3, 5, "gthread")
    assert made["max_requests"] > made["max_requests_jitter"] > 0
    assert (made["preload_app"], made["accesslog"], made["graceful_timeout"]) == (False, None, 30)
    assert made["forwarded_allow_ips"] == "*"
    assert "bind" not in made


def test_gunicorn_serves_asgi(monkeypatch):
    class UvicornWorker:
        CONFIG_KWARGS = {"loop": "auto"}  # noqa: RUF012

    monkeypatch.setitem(sys.modules, "uvicorn_worker", SimpleNamespace(UvicornWorker=UvicornWorker))
    worker = gunicorn(monkeypatch, WEB_INTERFACE="asgi", SCRIPT_NAME="/shop")["worker_class"]
    assert issubclass(worker, UvicornWorker)
    assert worker.CONFIG_KWARGS == {"loop": "auto", "root_path": "/shop"}


@pytest.mark.parametrize(
    ("processors", "memory", "expected"),
    [(1, 4096, 2), (2, 512, 4), (64, 65536, 8), (4, 300, 2), (1, 64, 1), (4, 409, 3)],
)
def test_gunicorn_fits_the_host(monkeypatch, processors, memory, expected):
    assert gunicorn(monkeypatch)["processes"](processors, memory) == expected


def test_the_memory_of_a_service_is_the_least_of_its_limits(monkeypatch, tmp_path):
    memory_mb = gunicorn(monkeypatch)["memory_mb"]
    write(
        tmp_path,
        {
            "meminfo": "MemTotal:        4096000 kB\nMemFree: 1 kB\n",
            "cgroup": "0::/system.slice/gunicorn-shop.service\n",
            "tree/system.slice/memory.max": f"{2048 * 2**20}\n",
            "tree/system.slice/gunicorn-shop.service/memory.max": "max\n",
        },
    )
    here = [tmp_path / name for name in ("cgroup", "tree", "meminfo")]
    assert memory_mb(*here) == 2048
    (tmp_path / "tree/system.slice/gunicorn-shop.service/memory.high").write_text(f"{409 * 2**20}\n")
    assert memory_mb(*here) == 409
    (tmp_path / "cgroup").unlink()
    assert memory_mb(*here) == 4000
    assert memory_mb(*[tmp_path / "none"] * 3) == 512


# -- preflight.py ------------------------------------------------------------------------------------------------------

PROJECT = {
    "shop/__init__.py": "",
    "shop/settings.py": SETTINGS,
    "shop/urls.py": "urlpatterns = []\n",
    "shop/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "shop/celery.py": "from celery import Celery\napp = Celery('shop')\napp.autodiscover_tasks(['shop'])\n",
    "shop/static/x": "",
}


def preflight(directory, *arguments, **environment):
    environment = {"DJANGO_SETTINGS_MODULE": "shop.settings", **environment}
    arguments = ["--application", "shop.wsgi:application", "--celery-app", "shop", *arguments]
    return python(directory, "-m", "preflight", "shop", *arguments, **environment)


def test_a_project_that_works(tmp_path):
    settings = SETTINGS + 'STATICFILES_DIRS = ["shop/static"]\nSTATIC_ROOT = "/nowhere"\n'
    write(tmp_path, PROJECT | {"shop/settings.py": settings})
    result = preflight(tmp_path, "--static", STATIC_ROOT=str(tmp_path / "gathered"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "gathered/x").exists(), "not in STATIC_ROOT of the environment"


MANIFEST = 'STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}\n'
NO_SETTINGS = {"DJANGO_SETTINGS_MODULE": "other.settings"}
OVERLAY = {"DJANGO_SETTINGS_MODULE": "quintet_settings", "QUINTET_SETTINGS": "other.settings"}
FAILURES = {
    "no settings": ({}, NO_SETTINGS, "no module other", "settings_module"),
    "no settings below an overlay": ({}, OVERLAY, "no module other", "settings_module"),
    "other settings": (
        {},
        {"DJANGO_SETTINGS_MODULE": "shop.production"},
        "no module shop.production",
        "settings_module",
    ),
    "a variable": (
        {"shop/settings.py": "import os\nX = os.environ['NO_X']\n"},
        {},
        "KeyError: 'NO_X'",
        "settings_module",
    ),
    "no library": ({"shop/settings.py": "import no_such_thing\n"}, {}, "no module no_such_thing", "dependencies"),
    "no app": (
        {"shop/settings.py": SETTINGS + "INSTALLED_APPS += ['no_app']\n"},
        {},
        "no module no_app",
        "dependencies",
    ),
    "a check": (
        {"shop/settings.py": SETTINGS + "STATICFILES_DIRS = 'x'\n"},
        {},
        "(staticfiles.E001)",
        "settings_module",
    ),
    "no backend": (
        {"shop/settings.py": SETTINGS + "DATABASES = {'default': {'ENGINE': 'no_database'}}\n"},
        {},
        "no module no_database",
        "dependencies",
    ),
    "no application": ({"shop/wsgi.py": ""}, {}, "AttributeError", "web.application"),
    "no module of it": ({"shop/wsgi.py": None}, {}, "no module shop.wsgi", "web.application"),
    "an application that is none": ({"shop/wsgi.py": "application = 1"}, {}, "cannot be called", "web.application"),
    "no Celery app": ({"shop/celery.py": ""}, {}, "AttributeError", "worker.celery_app"),
    "a broken task": ({"shop/tasks.py": "1 / 0\n"}, {}, "ZeroDivisionError", "worker.celery_app"),
    "a manifest elsewhere": (
        {"shop/settings.py": SETTINGS + MANIFEST + 'STATIC_ROOT = "/nowhere"\n'},
        {},
        "STATIC_ROOT is '/nowhere'",
        "web.static_url",
    ),
    "a password": (
        {"shop/settings.py": "raise ValueError('redis://x:geheim@redis.example.org/')\n"},
        {},
        "redis://***@redis.example.org/",
        "settings_module",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_project_that_does_not(tmp_path, name):
    files, environment, says, key = FAILURES[name]
    write(tmp_path, {path: text for path, text in (PROJECT | files).items() if text is not None})
    result = preflight(tmp_path, "--static", STATIC_ROOT=str(tmp_path / "gathered"), **environment)
    assert result.returncode == 1
    assert says in result.stderr
    assert "geheim" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) < 20
    assert lines[-1].startswith("quintet: shop: ")
    assert f"see {key}" in lines[-1]


# -- build.sh ----------------------------------------------------------------------------------------------------------

# Runs what it is asked to run, as it would be, without systemd.
QUINTET_MANAGE = """#!/bin/sh
echo "$@" >>"$HOME/asked"
release=$2 module=$4 && shift 5
target=$HOME/shop/releases/$release
cd "$target/project" && STATIC_ROOT="$target/static" exec "$target/venv/bin/python" -m "$module" "$@"
"""


@pytest.fixture
def build(tmp_path):
    """Gives a function: build a release of these files on this machine, as whoever runs the tests."""
    write(tmp_path / "bin", {"quintet-manage": QUINTET_MANAGE, "chown": "#!/bin/sh\n"})
    for tool in (tmp_path / "bin").iterdir():
        tool.chmod(0o755)
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    info = "packages/thing-1.0.dist-info/"
    ours = {
        f"quintet/{name}": (FILES / name).read_text()
        for name in ("quintet_settings.py", "gunicorn.conf.py", "preflight.py")
    }
    installed = {
        # The test's own Django and Celery.
        "packages/here.pth": sysconfig.get_path("purelib") + "\n",
        "packages/thing.py": "class main:\n    run = staticmethod(lambda: print('it runs'))\n",
        f"{info}METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        f"{info}entry_points.txt": "[console_scripts]\nthing = thing:main.run\n",
    }

    def long_ago(member):
        member.mtime = 0
        return member

    def run(files, root, *arguments, release="0123", other=""):
        given = {f"source/{name}": text for name, text in files.items()} | {"packages/other.py": other}
        made = write(tmp_path / "made", given | ours | installed | {"sbom.json": '{"of": "thing"}'})
        (tmp_path / "shop").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"shop/{release}.tar.gz", "w:gz") as tar:
            for name in ("source", "packages", "quintet", "sbom.json"):
                # As bundle.py does it.
                tar.add(made / name, name, filter=long_ago)
        environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        project = getpass.getuser()
        return subprocess.run(
            [
                "bash",
                FILES / "build.sh",
                tmp_path / "shop",
                tmp_path / "state",
                release,
                project,
                root,
                "5",
                tmp_path / "shop/releases" / release / "tried-1",
                *arguments,
            ],
            env=os.environ | environment | {"DJANGO_SETTINGS_MODULE": "shop.settings"},
            capture_output=True,
            text=True,
        )

    return run


def test_a_release_of_a_directory_of_the_source(build, tmp_path):
    settings = SETTINGS + 'STATICFILES_DIRS = ["shop/static"]\n'
    files = PROJECT | {"shop/settings.py": settings, "shop/list": "as it came"}
    files = {f"back end/{name}": text for name, text in files.items()}
    result = build(
        files,
        "back end",
        "--state",
        "media",
        "--state",
        "shop/list",
        *("--", "--application", "shop.wsgi"),
        *("--celery-app", "shop", "--static"),
    )
    assert result.returncode == 0, result.stderr
    made = tmp_path / "shop/releases/0123"
    assert (made / "complete").exists()
    assert (made / "tried-1").exists()
    assert (made / "static/x").exists()
    assert (made / "sbom.json").read_text() == '{"of": "thing"}'
    assert os.readlink(made / "project") == "source/back end"
    assert os.readlink(made / "gunicorn.conf.py") == "quintet/gunicorn.conf.py"
    assert subprocess.check_output([made / "venv/bin/thing"], text=True) == "it runs\n"
    assert not list((tmp_path / "shop").glob("*.tar.gz"))
    assert [os.readlink(made / "project" / path) for path in ("media", "shop/list")] == [
        f"{tmp_path}/state/media",
        f"{tmp_path}/state/shop/list",
    ]
    assert (tmp_path / "state/media").is_dir()
    assert (tmp_path / "state/shop/list").read_text() == "as it came"
    user = getpass.getuser()
    asked = (
        f"--release 0123 --module quintet_preflight {user} {user} --application shop.wsgi --celery-app shop --static\n"
    )
    assert (tmp_path / "asked").read_text() == asked


def test_what_is_compiled_already_is_not_compiled_again(build, tmp_path):
    """A module that is the same in both releases; one that is not is compiled, and the first release keeps its own."""
    compiled = {}
    for release, text in (("0123", "KIND = 1\n"), ("4567", "KIND = 2\n")):
        assert build(PROJECT, ".", "--", "--application", "shop.wsgi", release=release, other=text).returncode == 0
        packages = next((tmp_path / f"shop/releases/{release}/venv/lib").glob("python3*")) / "site-packages"
        compiled[release] = {name: next(packages.glob(f"__pycache__/{name}.*.pyc")) for name in ("thing", "other")}
        says = [tmp_path / f"shop/releases/{release}/venv/bin/python", "-c", "import other; print(other.KIND)"]
        assert subprocess.check_output(says, text=True) == text[-2:]
    assert compiled["0123"]["thing"].samefile(compiled["4567"]["thing"])
    assert not compiled["0123"]["other"].samefile(compiled["4567"]["other"])


def test_a_release_that_would_not_run_is_not_complete(build, tmp_path):
    files = PROJECT | {"shop/settings.py": "", "gunicorn.conf.py": ""}
    result = build(files, ".", "--", "--application", "shop.wsgi:none")
    assert result.returncode == 1
    assert "see web.application of the project" in result.stderr
    made = tmp_path / "shop/releases/0123"
    assert not (made / "complete").exists()
    assert not (made / "tried-1").exists()
    assert os.readlink(made / "gunicorn.conf.py") == "project/gunicorn.conf.py"


@pytest.mark.parametrize(("application", "works"), [("shop.wsgi", True), ("shop.wsgi:none", False)])
def test_what_is_built_is_tried_in_another_environment(build, tmp_path, application, works):
    assert build(PROJECT, ".", "--", "--application", "shop.wsgi").returncode == 0
    mark = tmp_path / "shop/releases/0123/tried-2"
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
    }
    command = ["bash", FILES / "try.sh", getpass.getuser(), "0123", mark, "--application", application]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert result.returncode == (0 if works else 1), result.stderr
    assert mark.exists() is works
    assert works or "see web.application of the project" in result.stderr


# -- health.py ---------------------------------------------------------------------------------------------------------

NEW = {
    "nothing runs yet": ({"current": None}, False),
    "nothing changed": ({}, False),
    "another release": ({"current": "releases/4567"}, True),
    "another environment": ({"environment": "A=1"}, True),
    "another command of gunicorn": ({"unit": "ExecStart=/x/gunicorn --workers 1 shop.wsgi\n"}, True),
    "no unit to compare with": ({"unit": None}, False),
}


@pytest.mark.parametrize("name", NEW)
def test_what_is_tried_beside_what_runs(tmp_path, name):
    given, expected = NEW[name]
    found = {
        "current": "releases/0123",
        "environment": "A=2",
        "unit": "ExecStart=/x/gunicorn --workers 2 shop.wsgi\n",
    } | given
    if found["current"]:
        (tmp_path / "current").symlink_to(found["current"])
    (tmp_path / "environment").write_text(found["environment"])
    (tmp_path / "environment.next").write_text("A=2")
    if found["unit"]:
        (tmp_path / "gunicorn-shop.service").write_text(f"[Service]\n{found['unit']}Restart=always\n")
    health = runpy.run_path(str(ROOT / "roles/web/files/health.py"))
    health["is_new"].__globals__["UNITS"] = str(tmp_path)
    site = {"directory": str(tmp_path), "project": "shop", "release": "0123", "gunicorn": "--workers 2 shop.wsgi"}
    assert health["is_new"](site) is expected


# -- pages.py ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "path", "wrong"),
    [
        (200, "/", ""),
        (200, "/late", ""),
        (200, "/other", "status 404"),
        (301, "/moved", ""),
        (200, "/moved", "status 301"),
    ],
)
def test_a_page_is_asked_for_until_it_answers(status, path, wrong):
    asked = []

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Host"]))
            late = 503 if len(asked) < 3 else 200
            self.send_response({"/": 200, "/late": late, "/moved": 301}.get(self.path, 404))
            self.send_header("Location", "/")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}{path}"
        page = {"project": "shop", "url": url, "host": "shop.test", "statuses": [status], "seconds": 0 if wrong else 3}
        command = [sys.executable, ROOT / "roles/web/files/pages.py", json.dumps([page])]
        result = subprocess.run(command, capture_output=True, text=True)
        server.shutdown()
    assert set(asked) == {(path, "shop.test")}
    assert result.returncode == bool(wrong)
    assert result.stderr == (f"quintet: shop: {url} for shop.test: {wrong}\n" if wrong else "")


def test_a_page_that_nobody_serves():
    page = {"project": "shop", "url": "http://127.0.0.1:1/", "host": "shop.test", "statuses": [200], "seconds": 0}
    command = [sys.executable, ROOT / "roles/web/files/pages.py", json.dumps([page])]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, "no answer (ConnectionRefusedError" in result.stderr) == (1, True)


# -- wheels.sh ---------------------------------------------------------------------------------------------------------

BACKEND = """
import zipfile
def build_wheel(directory, *_):
    name = "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as made:
        made.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\n")
        made.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        made.writestr("thing-1.0.dist-info/RECORD", "")
    return name
"""


def test_wheels_are_made_on_a_host(tmp_path):
    thing = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    write(tmp_path / "source/back/thing", {"pyproject.toml": thing, "backend.py": BACKEND})
    out = tmp_path / "out"
    out.mkdir()
    with tarfile.open(out / "source.tar", "w") as tar:
        tar.add(tmp_path / "source", ".")
    # A virtual environment with pip takes seconds.
    venv = f"""#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\nexec {sys.executable} -m pip "$@"\\n' >"$3/bin/pip"
chmod +x "$3/bin/pip"
"""
    # A host's packages: one line of a file each.
    dpkg = """#!/bin/sh
sed 's/^/installed /' "$HOME/packages"
"""
    apt = """#!/bin/sh
what=$1
case $what in install | purge) shift ;; *) exit 0 ;; esac
for word; do
  case $word-$what in
    -*) ;;
    *-install) echo "$word" >>"$HOME/packages" ;;
    *-purge) sed -i "/^$word$/d" "$HOME/packages" ;;
  esac
done
"""
    write(tmp_path / "bin", {"python3": venv, "dpkg-query": dpkg, "apt-get": apt})
    for tool in (tmp_path / "bin").iterdir():
        tool.chmod(0o755)
    (tmp_path / "packages").write_text("dash\nlibpq5\n")

    def run(requirement):
        (out / "requirements.txt").write_text(requirement)
        command = ["bash", FILES / "wheels.sh", "out", "back", "gcc", "libpq5"]
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        environment["HOME"] = str(tmp_path)
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    result = run("no-such-thing==1.0\n")
    assert result.returncode == 1
    assert "no-such-thing" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("Is a Debian package missing in dependencies.build_packages?")
    assert not (out / "wheels.tar").exists()
    assert set((tmp_path / "packages").read_text().split()) == {"dash", "libpq5"}
    # It was killed: what it had installed is not there for good.
    (tmp_path / "packages").write_text("dash\nlibpq5\ngcc\n")

    result = run("./thing\n")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["before", "requirements.txt", "source.tar", "wheels.tar"]
    assert set((tmp_path / "packages").read_text().split()) == {"dash", "libpq5"}
    with tarfile.open(tmp_path / "out/wheels.tar") as tar:
        assert "./thing-1.0-py3-none-any.whl" in tar.getnames()
