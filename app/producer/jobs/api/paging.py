"""Cursors: a place in a list of jobs that stays the same, whatever is added above it."""

import struct
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

from django.db.models import Q

PATTERN = r"^[A-Za-z0-9_-]{32}$"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FORM = struct.Struct(">Q16s")


def cursor(job):
    """The place after a job: 32 characters."""
    return urlsafe_b64encode(FORM.pack((job.created_at - EPOCH) // MICROSECOND, job.pk.bytes)).decode()


def after(jobs, text):
    """The jobs after a cursor, in the list's order: newest first. Any text of the pattern is a place."""
    created_at, pk = _place(text)
    # Said twice, since PostgreSQL finds the place in the index by the first of the two only.
    return jobs.filter(created_at__lte=created_at).filter(Q(created_at__lt=created_at) | Q(pk__lt=pk))


def newer(jobs, text):
    """The jobs before a cursor's job, in the list's order: the other direction."""
    created_at, pk = _place(text)
    return jobs.filter(created_at__gte=created_at).filter(Q(created_at__gt=created_at) | Q(pk__gt=pk))


def _place(text):
    microseconds, pk = FORM.unpack(urlsafe_b64decode(text))
    return EPOCH + min(microseconds, (LAST - EPOCH) // MICROSECOND) * MICROSECOND, uuid.UUID(bytes=pk)
