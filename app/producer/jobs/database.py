"""What it means that PostgreSQL fails."""

from django.db import InterfaceError, InternalError, OperationalError
from psycopg.errors import ReadOnlySqlTransaction

# It went away, refuses, or is too slow; or it is a member of a cluster that takes no writes, at this moment. Nothing in
# our code is wrong.
UNAVAILABLE = (OperationalError, InterfaceError, InternalError)


def passes(exc):
    """Whether it is worth to try the same again, whatever that is. Django says InternalError of other things, too."""
    if isinstance(exc, InternalError):
        return isinstance(exc.__cause__, ReadOnlySqlTransaction)
    return isinstance(exc, UNAVAILABLE)
