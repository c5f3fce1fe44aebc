"""What it means that PostgreSQL fails."""

from django.db import InterfaceError, InternalError, OperationalError

# It went away, refuses, or is too slow; or it is a member of a cluster that takes no writes, at this moment. All of it
# passes, and nothing in our code, or in what we were sent, is wrong.
UNAVAILABLE = (OperationalError, InterfaceError, InternalError)
