"""Pages of jobs: from a place in the list on, so that the last page is as quick as the first."""

import re
from urllib.parse import urlencode

from django.db import OperationalError, connection, transaction

from .api import paging
from .models import Job, ParkedTask

SIZE = 25
SEARCH_SECONDS = 3


def find(query):
    """The page that a query string asks for: `jobs`, `q`, `state`, `newer` and `older` (query strings, or "").

    `too_long` instead of jobs where the search would take more than a few seconds.
    """
    q = query.get("q", "").replace("\0", "").strip()[:200]
    state = query.get("state", "")
    jobs = Job.objects.all()
    if state in Job.State.values:
        jobs = jobs.filter(state=state)
    else:
        state = ""
    if q:
        jobs = jobs.search(q)
    kept = {name: value for name, value in (("state", state), ("q", q)) if value}
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = %s", [SEARCH_SECONDS * 1000])
            page, newer, older = slice_of(jobs, query.get("older", ""), query.get("newer", ""))
    except OperationalError as exc:
        if getattr(exc.__cause__, "sqlstate", None) != "57014":  # cancelled: the search was too much
            raise
        return {"q": q, "state": state, "too_long": True}
    return {
        "jobs": page,
        "q": q,
        "state": state,
        "newer": urlencode(kept | {"newer": newer}) if newer else "",
        "older": urlencode(kept | {"older": older}) if older else "",
    }


def slice_of(jobs, older_than, newer_than):
    """`(jobs, newer, older)`: a page, and the cursors of its neighbours where there are some. Nonsense is the start."""
    if re.fullmatch(paging.PATTERN, newer_than):
        page = list(paging.newer(jobs, newer_than).order_by("created_at", "id")[: SIZE + 1])
        if len(page) > SIZE:
            page = page[SIZE - 1 :: -1]
            return page, paging.cursor(page[0]), paging.cursor(page[-1])
        older_than = ""  # the first page, and a full one
    further = bool(re.fullmatch(paging.PATTERN, older_than))
    page = list((paging.after(jobs, older_than) if further else jobs)[: SIZE + 1])
    older = paging.cursor(page[SIZE - 1]) if len(page) > SIZE else ""
    page = page[:SIZE]
    return page, paging.cursor(page[0]) if further and page else "", older


def parked(older_than):
    """`(tasks, older)`: a page of parked tasks that are no jobs, and the place of the next page."""
    tasks = ParkedTask.objects.all()
    if re.fullmatch(r"\d{1,18}", older_than):
        tasks = tasks.filter(pk__lt=int(older_than))
    page = list(tasks[: SIZE + 1])
    return page[:SIZE], page[SIZE - 1].pk if len(page) > SIZE else ""
