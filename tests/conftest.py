"""Fixtures of the fast tests, and the guard that they write no secret into the repository."""

import os
import sys

import pytest

from tests.samples import APART, EDGED, TOPOLOGIES, WIDE, topology
from tests.topology import ROOT

SECRETS_OF_STACKS = str(ROOT / "inventories" / ".secrets")


def refuse_secrets(event, arguments):
    """An audit hook: opening or making anything below inventories/.secrets fails the test."""
    if event in ("open", "os.mkdir") and isinstance(arguments[0], str | bytes):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith(SECRETS_OF_STACKS):
            raise PermissionError(f"a fast test wants {path}")


sys.addaudithook(refuse_secrets)

# A `make` that a test calls is part of no other: with the flags of the one that runs the tests it says where it is.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", params=TOPOLOGIES)
def each(request):
    """Each topology in turn."""
    return topology(request.param)


@pytest.fixture(scope="session")
def quintet():
    return topology("quintet")


@pytest.fixture(scope="session")
def onebox():
    return topology("onebox")


@pytest.fixture(scope="session")
def ha():
    return topology("ha")


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A topology of a site's own, with several web hosts and workers."""
    path = tmp_path_factory.mktemp("site") / "wide.yml"
    path.write_text(WIDE)
    return topology(str(path))


@pytest.fixture(scope="session")
def edged(tmp_path_factory):
    """A topology with an edge."""
    path = tmp_path_factory.mktemp("site") / "edged.yml"
    path.write_text(EDGED)
    return topology(str(path))


@pytest.fixture(scope="session")
def apart(tmp_path_factory):
    """`ha` with its tiers on hosts of their own."""
    path = tmp_path_factory.mktemp("site") / "apart.yml"
    path.write_text(APART)
    return topology(str(path))
