"""The API's page in a browser: it obeys its own policy, loads nothing from elsewhere, and its button makes a job."""

import re

import pytest

from jobs.models import Job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("stack")]


def test_the_documentation_works_under_its_policy(visit, provoke, live_server):
    page, places = visit(), set()
    page.on("request", lambda request: places.add(request.url))
    page.goto("/api/docs")
    page.locator("#operations-default-createJob .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status").filter(has_text=re.compile("20[02]")).wait_for()
    assert Job.objects.get().first == "salt"
    assert len(places) > 5
    assert all(place.startswith(live_server.url) for place in places)
    provoke(page)
