"""How people log in: their passwords, and what django-axes must know to bound the guessing of them."""

from django.conf import settings
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.shortcuts import render

from .api.limits import client

LONGEST_USERNAME = 150


class Argon2(Argon2PasswordHasher):
    """OWASP's parameters with the least memory: Django's would take 100 MiB for each of the logins at one time."""

    time_cost = 5
    memory_cost = 7 * 1024  # KiB
    parallelism = 1


def username(request, credentials):
    """Who somebody claims to be. Nobody has a longer name, and a row has no room for one."""
    return (credentials.get("username") or "")[:LONGEST_USERNAME]


def address(request):
    """Who asks, as a row has it: of a network the first address, and None if nobody knows."""
    name = client(request).partition("/")[0]
    return None if name == "unknown" else name


def refuse(request, response, credentials):
    """Say when to come again."""
    seconds = int(settings.AXES_COOLOFF_TIME.total_seconds())
    response = render(request, "429.html", {"minutes": seconds // 60}, status=429)
    response["Retry-After"], response["Cache-Control"] = str(seconds), "no-store"
    return response
