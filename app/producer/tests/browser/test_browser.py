"""The pages as people meet them: in a browser, with keyboard or phone, without scripts, and with tiers that go away."""

import re
import signal
import uuid
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone
from playwright.sync_api import expect

from jobs.models import Job, Outbox, ParkedTask
from tests.conftest import until

from .conftest import PATIENCE_MS, PHONE

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("stack")]

State = Job.State
expect.set_options(timeout=PATIENCE_MS)


def fill(page, first="red", second="rabbit", work_seconds=None):
    page.get_by_label("First", exact=True).fill(first)
    page.get_by_label("Second", exact=True).fill(second)
    if work_seconds:
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Seconds of work").fill(str(work_seconds))


def send(page, *words, **options):
    fill(page, *words, **options)
    page.get_by_role("button", name="Send them on their way").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f-]{36}/$"))


def mark(page):
    """From now on it can be told whether the page was loaded again."""
    page.evaluate("window.marked = true")


def is_marked(page):
    return page.evaluate("window.marked === true")


@pytest.fixture
def addresses():
    """Each kind of page, with something on it."""

    def job(state, **values):
        ended = {} if state == State.WAITING else {"finished_at": timezone.now(), "started_at": timezone.now()}
        return Job.objects.create(first="red", second="rabbit", state=state, **ended | values).get_absolute_url()

    parked = ParkedTask.objects.create(
        task="x", task_id="1", args=[], kwargs={}, headers={}, queue="service", reason="rejected", body=b"", digest="1"
    )
    assert parked.can_be_retried
    for number in range(30):
        job(State.DONE, result=f"{'very' * 50}long es {number}")
    return {
        "form": "/",
        "waiting": job(State.WAITING, due_at=timezone.now() + timezone.timedelta(hours=1)),
        "done": job(State.DONE, result="red es rabbit", worker="worker1"),
        "failed": job(State.FAILED, reason="ValueError: " + "x" * 300),
        "parked": job(State.PARKED, reason="Its worker died."),
        "all": "/jobs/",
        "none": "/jobs/?q=nothing",
        "mine": "/jobs/mine/",
        "parked tasks": "/jobs/parked/",
        "status": "/status/",
        "404": "/nothing",
    }


def test_a_result_arrives_without_reload(visit):
    page = visit()
    send(page, work_seconds=2)
    expect(page.get_by_role("heading", level=1)).to_have_text("Waiting for a worker")
    mark(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    expect(page).to_have_title("Done · Quintet")
    # What the row knows comes a moment later, and is shown as well.
    expect(page.locator(".timeline strong")).to_have_text(["Accepted", "Started by worker1", "Done"])
    expect(page.locator(".timeline li").last).to_contain_text(re.compile(r"\b2(\.\d+)?\ss of work"))
    assert is_marked(page)


def test_a_quick_result_is_there_at_once(visit):
    page = visit()
    send(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    expect(page.get_by_text("Joined by worker1")).to_be_visible()


def test_invalid_input_is_explained_and_put_right(visit):
    page = visit()
    page.get_by_role("button", name="Send them on their way").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was sent yet")
    expect(page.get_by_label("First", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("First", exact=True)).to_have_accessible_description("This field is required.")
    page.get_by_role("alert").get_by_role("link", name="Second").click()
    expect(page.get_by_label("Second", exact=True)).to_be_focused()
    assert not Job.objects.exists()
    send(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")


def test_a_second_click_makes_no_second_job(visit, settings):
    page, posts = visit(java_script_enabled=False), []
    settings.RESULT_WAIT_SECONDS = 3  # the first post is still under way
    page.on("request", lambda request: posts.append(request) if request.method == "POST" else None)
    fill(page, work_seconds=2)
    box = page.get_by_role("button", name="Send them on their way").bounding_box()
    for _ in range(2):
        page.mouse.click(box["x"] + 9, box["y"] + 9)
        until(Job.objects.exists)
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}/$"))  # the first post's navigation was cut off
    assert len(posts) == 2
    assert Job.objects.count() == 1


def test_the_form_says_that_it_is_under_way(visit):
    page = visit()
    # A post that leads nowhere, and a way back to the page as it was left.
    page.evaluate("document.querySelector('form.job').dispatchEvent(new Event('submit'))")
    expect(page.get_by_role("button", name="On their way…")).to_be_visible()
    page.evaluate("dispatchEvent(new Event('pageshow'))")
    expect(page.get_by_role("button", name="Send them on their way")).to_be_visible()


def test_a_result_is_shown_before_it_is_at_home(visit, stack):
    page = visit()
    stack.home.process.send_signal(signal.SIGSTOP)
    try:
        send(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
        assert Job.objects.get().waiting
        expect(page.locator(".timeline strong")).to_have_text(["Accepted", "Done"])
        mark(page)
    finally:
        stack.home.process.send_signal(signal.SIGCONT)
    expect(page.locator(".timeline strong")).to_have_text(["Accepted", "Started by worker1", "Done"])
    assert is_marked(page)


def test_a_job_waits_for_its_worker(visit, stack):
    stack.stop_service()
    try:
        page = visit()
        send(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("Waiting for a worker")
        expect(page.get_by_text("The job is in the queue")).to_be_visible()
        mark(page)
    finally:
        stack.start_service()
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    assert is_marked(page)


def test_a_failed_job_is_tried_again(visit):
    failed = Job.objects.create(
        first="red", second="rabbit", state=State.FAILED, reason="asked to fail", finished_at=timezone.now()
    )
    page = visit(failed.get_absolute_url())
    expect(page.get_by_text("asked to fail")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    expect(page.get_by_text("Sent again, attempt 2")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_server_that_goes_away_is_noticed_and_waited_for(visit):
    page = visit()
    send(page, work_seconds=3)
    mark(page)
    page.context.set_offline(True)
    expect(page.get_by_text("The server does not answer right now")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    expect(page.get_by_text("The server does not answer right now")).to_be_hidden()
    assert is_marked(page)


def test_two_browsers_have_their_own_jobs(visit):
    one, other = visit(), visit()
    send(one, "mine")
    send(other, "yours")
    for page, own, foreign in ((one, "mine", "yours"), (other, "yours", "mine")):
        page.get_by_role("link", name="My jobs").click()
        expect(page.get_by_role("heading", name="My jobs")).to_be_visible()
        expect(page.get_by_role("link", name=f"{own} es rabbit")).to_be_visible()
        expect(page.get_by_text(foreign)).to_have_count(0)
        page.get_by_role("link", name="All jobs").click()
        expect(page.get_by_role("link", name=f"{foreign} es rabbit")).to_be_visible()


def test_jobs_are_found(visit, addresses):
    page = visit("/jobs/")
    page.get_by_role("link", name="Older").click()
    expect(page.get_by_role("link", name="Newer")).to_be_visible()
    page.get_by_label("Find a word or an id").fill("RED ES")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".jobs li")).to_have_count(1)
    page.get_by_role("navigation", name="State").get_by_role("link", name="Failed").click()
    expect(page.get_by_text("No job is like that")).to_be_visible()


def test_the_keyboard_is_enough(visit):
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("First", exact=True)).to_be_focused()
    page.keyboard.type("red")
    page.keyboard.press("Tab")
    page.keyboard.type("rabbit")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # unfolds more
    page.keyboard.press("Tab")
    expect(page.get_by_label("Seconds of work")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*/")
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    outlined = "getComputedStyle(document.activeElement).outlineStyle"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Join two more":
            break
        assert page.evaluate(outlined) == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_label("First", exact=True)).to_be_visible()


def test_a_phone_needs_no_sideways_scrolling(visit, addresses):
    page = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    for name, address in addresses.items():
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
        # What is tapped is large enough for a finger.
        for button in page.get_by_role("button").all():
            assert button.bounding_box()["height"] >= 44, name


def test_the_essential_path_needs_no_script(visit):
    page = visit(java_script_enabled=False)
    send(page, work_seconds=1)
    expect(page.get_by_role("heading", level=1)).to_have_text("red es rabbit")
    page.get_by_role("link", name="My jobs").click()
    expect(page.get_by_role("link", name="red es rabbit")).to_be_visible()
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("All five tiers work")
    expect(page.get_by_role("img", name="The five tiers")).to_be_visible()
    expect(page.locator(".plot circle")).to_have_count(1)


def test_the_status_page_shows_a_worker_that_stopped_and_came_back(visit, stack):
    page = visit("/status/")
    workers = page.locator(".picture.wide .box", has_text="Workers")
    expect(page.get_by_role("heading", level=1)).to_have_text("All five tiers work")
    expect(workers).to_contain_text("works")
    mark(page)
    stack.stop_service()
    try:
        expect(page.get_by_role("heading", level=1)).to_have_text("Workers: nobody takes the jobs")
        expect(workers).to_contain_text("fails")
        red = workers.locator(".frame").evaluate("e => getComputedStyle(e).stroke")
        expect(page.get_by_text("Jobs are accepted, and wait until a worker is back.")).to_be_visible()
    finally:
        stack.start_service()
    expect(page.get_by_role("heading", level=1)).to_have_text("All five tiers work")
    expect(workers).to_contain_text("works")
    assert workers.locator(".frame").evaluate("e => getComputedStyle(e).stroke") != red
    assert is_marked(page)


def test_the_status_page_keeps_the_focus_and_shows_new_round_trips(visit):
    page = visit("/status/")
    link = page.get_by_role("link", name=re.compile("jobs? failed"))
    link.focus()
    Job.objects.create(
        first="red", second="rabbit", state=State.FAILED, reason="asked to fail", finished_at=timezone.now()
    )
    Job.objects.create(first="red", second="rabbit", state=State.DONE, result="x", finished_at=timezone.now())
    expect(page.locator(".plot circle")).to_have_count(1)
    expect(page.locator(".tiles .card", has_text="failed")).to_contain_text("1 job failed")
    expect(link).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_pages(visit, addresses, scheme):
    page, axe = visit(color_scheme=scheme), Axe()
    found = {}
    for name, address in addresses.items():
        page.goto(address)
        found[name] = axe.run(page)
    page.goto("/")
    page.get_by_role("button", name="Send them on their way").click()
    expect(page.get_by_role("alert")).to_be_visible()
    found["invalid"] = axe.run(page)
    reports = [f"{name}: {result.generate_report()}" for name, result in found.items() if result.violations_count]
    assert not reports, "\n".join(reports)
    assert all(result.response["passes"] for result in found.values())


def test_the_pages_obey_their_policy(visit, provoke, addresses):
    page = visit()
    for address in addresses.values():
        page.goto(address)
    with page.expect_response("**/status.json"):
        page.goto("/status/")
    provoke(page)


def test_the_admin_obeys_the_policy(visit, provoke, django_user_model):
    django_user_model.objects.create_superuser("operator", password="red rabbit")
    job = Job.objects.create(first="red", second="rabbit")
    Outbox.objects.create(job=job, task_id=str(job.pk), task="adding_task", due_at=timezone.now() + timedelta(hours=1))
    ParkedTask.objects.create(task="x", headers={}, queue="service", reason="rejected", body=b"", digest="1")
    page = visit("/admin/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("red rabbit")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Site administration")).to_be_visible()
    # Each page that a link leads to, from the one after that as well.
    seen, places = set(), {"/admin/"}
    while places - seen:
        place = min(places - seen)
        seen.add(place)
        assert page.goto(place).status == 200, place
        links = page.eval_on_selector_all("main a", "links => links.map(link => link.pathname)")
        places |= {link for link in links if link.startswith("/admin/")}
    pages = {re.sub(r"/(\d+|[0-9a-f-]{36})/", "/1/", place) for place in seen}
    assert pages >= {"/admin/auth/user/add/", "/admin/auth/user/1/change/", "/admin/jobs/job/1/change/"}
    assert pages >= {"/admin/jobs/outbox/", "/admin/jobs/parkedtask/1/delete/", "/admin/auth/user/1/history/"}
    page.goto("/admin/jobs/job/?q=red&state=waiting")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    provoke(page)


@pytest.mark.parametrize("path", ["/", "/nothing", "/admin/login/", "/api/docs"])
def test_a_script_that_was_smuggled_in_does_not_run(visit, complaints, path):
    page = visit()
    script = "(window.ran ??= []).push('{}')"
    smuggled = f'<script>{script.format("element")}</script><img src=/nothing onerror="{script.format("attribute")}">'

    def smuggle(route):
        response = route.fetch()
        body = response.text().replace("</body>", f"{smuggled}</body>")
        headers = {name: value for name, value in response.headers.items() if name not in without}
        route.fulfill(response=response, headers=headers, body=body)

    page.context.route(f"**{path}?smuggle", smuggle)
    without = ("content-length",)
    page.goto(f"{path}?smuggle")
    until(lambda: page.evaluate("1") and len(complaints) == 2)
    assert page.evaluate("window.ran") is None
    complaints.clear()
    # Without the policy it would have.
    without = ("content-length", "content-security-policy")
    page.goto(f"{path}?smuggle")
    until(lambda: page.evaluate("window.ran") == ["element", "attribute"])


def test_nobody_sees_a_job_that_is_not_there(visit):
    page = visit(f"/jobs/{uuid.uuid4()}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nothing is here")
