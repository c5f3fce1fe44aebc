"""A project's settings, with what a deployment decides in place of what they have hard-coded.

DJANGO_SETTINGS_MODULE is this module where `settings_overlay` is true, and QUINTET_SETTINGS names the project's own.
Read from the environment: DATABASE_URL, CACHE_URL, CELERY_BROKER_URL, CELERY_RESULT_BACKEND, SECRET_KEY, ALLOWED_HOSTS,
SECRET_KEY_FALLBACKS, STATIC_ROOT, MEDIA_ROOT and CSRF_TRUSTED_ORIGINS. What is not given stays as it is in theirs;
DEBUG is always off.
"""

import importlib
import os
from urllib.parse import parse_qsl, unquote, urlsplit


def database(url, theirs):
    """Django's dictionary for a URL of PostgreSQL, with those of their keys that do not say where the database is."""
    parts = urlsplit(url)
    engine = theirs.get("ENGINE", "")
    kept = {key: value for key, value in theirs.items() if key not in ("OPTIONS", "TEST")}
    options = {}
    if "postg" in engine:
        # PostGIS, say, and what it is told; but not where else to look for the database.
        options = {key: value for key, value in theirs.get("OPTIONS", {}).items() if key not in ("service", "passfile")}
    else:
        engine = "django.db.backends.postgresql"
    options |= dict(parse_qsl(parts.query))
    return kept | {
        "ENGINE": engine,
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


def cache(url, theirs):
    """Django's dictionary for a URL of Redis. Their keys stay, and their options where they were for Redis, too."""
    backend = theirs.get("BACKEND", "")
    if backend.startswith("django_redis.") or backend == "django.core.cache.backends.redis.RedisCache":
        return theirs | {"LOCATION": url}
    kept = {key: value for key, value in theirs.items() if key != "OPTIONS"}
    return kept | {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}


def celery(broker, results, theirs):
    """Celery's settings under each name that theirs use: with the prefix CELERY_, with another, or with none."""
    made = {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": results}
    for name, value in theirs.items():
        if broker and (name == "BROKER_URL" or name.endswith("_BROKER_URL")):
            made[name] = broker
            prefix, same = name.removesuffix("URL"), str(value).partition(":")[0] == broker.partition(":")[0]
            # Options of another kind of broker, of which ours knows nothing.
            if not same and f"{prefix}TRANSPORT_OPTIONS" in theirs:
                made[f"{prefix}TRANSPORT_OPTIONS"] = {}
            # These come before the URL where they are given.
            made |= {f"{prefix}{kind}_URL": broker for kind in ("READ", "WRITE") if f"{prefix}{kind}_URL" in theirs}
            if f"{prefix}USE_SSL" in theirs:
                made[f"{prefix}USE_SSL"] = broker.startswith("amqps")
        elif name == "RESULT_BACKEND" or name.endswith("_RESULT_BACKEND"):
            made[name] = results
    return {name: value for name, value in made.items() if value != ""}


def overlay(theirs, environment):
    """What replaces their settings, as far as the environment has it."""
    made = {"DEBUG": False}
    if url := environment.get("DATABASE_URL"):
        databases = theirs.get("DATABASES") or {}
        made["DATABASES"] = databases | {"default": database(url, databases.get("default") or {})}
    if url := environment.get("CACHE_URL"):
        caches = theirs.get("CACHES") or {}
        made["CACHES"] = caches | {"default": cache(url, caches.get("default") or {})}
    made |= celery(environment.get("CELERY_BROKER_URL", ""), environment.get("CELERY_RESULT_BACKEND", ""), theirs)
    made |= {name: environment[name] for name in ("SECRET_KEY", "STATIC_ROOT", "MEDIA_ROOT") if environment.get(name)}
    for name in ("ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "SECRET_KEY_FALLBACKS"):
        if environment.get(name):
            made[name] = [one.strip() for one in environment[name].split(",") if one.strip()]
    return made


_THEIRS = {
    name: value
    for name, value in vars(importlib.import_module(os.environ["QUINTET_SETTINGS"])).items()
    if name.isupper()
}
globals().update(_THEIRS | overlay(_THEIRS, os.environ))
