"""preflight PROJECT [--application NAME] [--celery-app NAME] [--static] [--no-check]: try what services will do.

Runs in the project's directory, as its user, in its environment, before any service sees the release: settings, system
checks, the web application, the Celery app, and with --static the static files, into $STATIC_ROOT. The first that fails
ends it with the last lines of the traceback, and one sentence on which key of the project's entry to look at.
"""

import argparse
import importlib
import io
import os
import re
import sys
import traceback

LINES = 16


class Step:
    """What is tried: `with Step(project, key, what)`. An exception inside is reported and ends the program."""

    def __init__(self, project, key, what):
        self.project, self.key, self.what = project, key, what

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, trace):
        if exc is None or not issubclass(kind, Exception | SystemExit):
            return
        lines = "".join(traceback.format_exception(kind, exc, trace)).splitlines()[-LINES:]
        # The values of variables may be in it, and URLs have passwords.
        print(re.sub(r"://[^/@\s]*@", "://***@", "\n".join(lines)), file=sys.stderr)
        key, advice = self.look_at(exc)
        print(f"quintet: {self.project}: {self.what} failed. {advice}: see {key} of the project.", file=sys.stderr)
        sys.stderr.flush()
        sys.exit(1)

    def look_at(self, exc):
        """The key that is to blame, and why."""
        missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
        # Django and others wrap what they could not import.
        cause = exc
        while missing is None and (cause := cause.__cause__ or cause.__context__) is not None:
            missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing is None:
            return self.key, f"{type(exc).__name__} is what it says"
        if missing.partition(".")[0] in own_modules():
            return self.key, f"There is no module {missing}"
        if missing in {
            os.environ.get(name, "").partition(".")[0] for name in ("DJANGO_SETTINGS_MODULE", "QUINTET_SETTINGS")
        }:
            return "settings_module and source.root", f"There is no module {missing} in {os.getcwd()}"
        return f"dependencies (or {self.key})", f"There is no module {missing}"


def own_modules():
    """The names that can be imported from the project's directory."""
    return {name.removesuffix(".py") for name in os.listdir() if name.endswith(".py") or os.path.isdir(name)}


def import_application(path):
    """What gunicorn would serve: MODULE, MODULE:NAME or MODULE:FACTORY()."""
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    for part in (name.partition("(")[0] or "application").split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{path} is {type(found).__name__}, which cannot be called")


def import_backends():
    """The libraries that the databases and caches need: Django itself imports them only when they are used."""
    from django.conf import settings
    from django.db import connections

    for name in connections:
        connections[name]
    if any("redis" in str(cache.get("BACKEND")).lower() for cache in settings.CACHES.values()):
        importlib.import_module("redis")


def gather_static():
    """Fill $STATIC_ROOT, from which nginx serves."""
    from django.conf import settings
    from django.contrib.staticfiles.storage import staticfiles_storage
    from django.core.management import call_command

    theirs, ours = settings.STATIC_ROOT, os.environ["STATIC_ROOT"]
    settings.STATIC_ROOT = ours
    call_command("collectstatic", interactive=False, verbosity=0)
    if hasattr(staticfiles_storage, "read_manifest") and os.path.realpath(theirs or "") != os.path.realpath(ours):
        raise ValueError(
            f"STATIC_ROOT is {theirs!r} in the settings, where the running project would look for its manifest;"
            " it must be os.environ['STATIC_ROOT'], or settings_overlay be true"
        )


def main():
    """Each step in turn."""
    parser = argparse.ArgumentParser(prog="quintet_preflight")
    parser.add_argument("project")
    parser.add_argument("--application")
    parser.add_argument("--celery-app")
    parser.add_argument("--static", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    options = parser.parse_args()

    with Step(options.project, "dependencies", "importing Django"):
        import django
    with Step(options.project, "settings_module", f"reading the settings {os.environ.get('DJANGO_SETTINGS_MODULE')}"):
        from django.conf import settings

        settings.INSTALLED_APPS  # noqa: B018 reads them
    with Step(options.project, "settings_module", "django.setup()"):
        django.setup()
    with Step(options.project, "settings_module", "loading the backends of databases and caches"):
        import_backends()
    if not options.no_check:
        with Step(options.project, "settings_module (or system_check)", "manage.py check"):
            from django.core.management import call_command

            call_command("check", stdout=io.StringIO())  # warnings are for stderr
    if options.application:
        with Step(options.project, "dependencies", "importing gunicorn"):
            importlib.import_module("gunicorn")
        with Step(options.project, "web.application", f"importing {options.application}"):
            import_application(options.application)
    if options.celery_app:
        with Step(options.project, "dependencies", "importing Celery"):
            from celery.app.utils import find_app
        with Step(options.project, "worker.celery_app", f"importing {options.celery_app}"):
            find_app(options.celery_app).loader.import_default_modules()
    if options.static:
        with Step(options.project, "web.static_url", "collectstatic"):
            gather_static()


if __name__ == "__main__":
    main()
