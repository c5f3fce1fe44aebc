"""The OpenAPI document is complete, its page loads nothing from elsewhere, and the API does what it says."""

import re
import threading
from collections import Counter

import hypothesis
import jsonschema
import pytest
import schemathesis
from django.contrib.staticfiles import finders
from django.core.management import call_command
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from jobs.api import limits
from jobs.api.problems import KEY_REUSED, MEDIA_TYPE
from jobs.api.schemas import word
from jobs.models import MOST_DELAY_SECONDS, MOST_WORK_SECONDS, Job
from producer.wsgi import application

pytestmark = pytest.mark.django_db(transaction=True)

# The same requests each time; none is looked up in a database of earlier failures.
CONFIG = SchemathesisConfig.from_dict({"seed": 1, "generation": {"deterministic": True, "mode": "all"}})
BOUNDS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
described = schemathesis.openapi.from_wsgi("/api/openapi.json", application, config=CONFIG)


@pytest.fixture
def quick(settings, monkeypatch):
    """An API that is asked more than any client may, and where nobody waits."""
    settings.API_REQUESTS_PER_MINUTE = 0
    monkeypatch.setattr(limits, "waiters", threading.Semaphore(0))


def check(case, response):
    """All that schemathesis knows to check."""
    # The one thing that a document cannot say: whether a key was used before.
    reused = response.status_code == 422 and response.json()["type"] == KEY_REUSED
    case.validate_response(response, excluded_checks=[positive_data_acceptance] if reused else [])


@pytest.mark.usefixtures("quick")
@described.parametrize()
@hypothesis.settings(max_examples=150, **BOUNDS)
def test_the_api_does_what_its_document_says(case):
    check(case, case.call())


@pytest.mark.usefixtures("quick")
def test_one_thing_after_another():
    seen = Counter()

    class Machine(described.as_state_machine()):
        def validate_response(self, response, case, **options):
            seen[case.operation.label, response.status_code] += 1
            check(case, response)

    Machine.run(settings=hypothesis.settings(max_examples=40, stateful_step_count=6, **BOUNDS))
    # It has found out by itself that the job that was created can be got and retried.
    assert seen["GET /api/jobs/{job_id}", 200]
    assert seen["POST /api/jobs/{job_id}/retry", 409]


@pytest.fixture
def document(client):
    response = client.get("/api/openapi.json")
    assert response["Content-Type"] == "application/json"
    return response.json()


def operations(document):
    return [operation for path in document["paths"].values() for operation in path.values()]


def resolve(document, part):
    while "$ref" in part:
        _, *names = part["$ref"].split("/")
        part = document
        for name in names:
            part = part[name]
    return part


def test_every_operation_is_described(document):
    assert document["openapi"].startswith("3.1")
    assert {(path, method) for path, item in document["paths"].items() for method in item} == {
        ("/api/jobs", "post"),
        ("/api/jobs", "get"),
        ("/api/jobs/batch", "post"),
        ("/api/jobs/{job_id}", "get"),
        ("/api/jobs/{job_id}/retry", "post"),
    }
    assert len({operation["operationId"] for operation in operations(document)}) == 5
    for operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert all(parameter["description"] for parameter in operation["parameters"])
        assert {"429", "500", "503"} < operation["responses"].keys()


def test_the_header_is_described(document):
    [header] = [one for one in document["paths"]["/api/jobs"]["post"]["parameters"] if one["in"] == "header"]
    assert (header["name"], header["required"]) == ("Idempotency-Key", False)
    assert header["schema"]["maxLength"] == 255


def test_every_error_is_described_as_a_problem_with_an_example_that_is_one(document):
    problem = document["components"]["schemas"]["Problem"] | {"components": document["components"]}
    count = 0
    for operation in operations(document):
        for status, response in operation["responses"].items():
            response = resolve(document, response)
            assert response["description"]
            if int(status) < 400:
                continue
            [(media_type, content)] = response["content"].items()
            assert media_type == MEDIA_TYPE
            assert resolve(document, content["schema"]) == document["components"]["schemas"]["Problem"]
            jsonschema.validate(content["example"], problem)
            assert content["example"]["status"] == int(status)
            assert ("Retry-After" in response.get("headers", {})) == (status in ("429", "503"))
            count += 1
    assert count >= 20


def test_examples_are_valid(document):
    count = 0
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", []):
            jsonschema.validate(example, schema | {"components": document["components"]})
            count += 1
    for operation in operations(document):
        for response in operation["responses"].values():
            for content in resolve(document, response)["content"].values():
                if "example" in content:
                    jsonschema.validate(content["example"], content["schema"] | {"components": document["components"]})
                    count += 1
        for parameter in operation["parameters"]:
            if "example" in parameter:
                jsonschema.validate(parameter["example"], parameter["schema"])
                count += 1
    assert count >= 15


def test_references_lead_somewhere(document):
    references = re.findall(r'"\$ref": "(.*?)"', str(document).replace("'", '"'))
    assert len(references) > 20
    for reference in references:
        assert resolve(document, {"$ref": reference})


def test_the_limits_are_the_models(document):
    fields = document["components"]["schemas"]["NewJob"]["properties"]
    for name, limit in (("first", "maxLength"), ("second", "maxLength")):
        assert fields[name][limit] == Job._meta.get_field(name).max_length
    assert fields["work_seconds"]["maximum"] == MOST_WORK_SECONDS
    assert fields["delay_seconds"]["maximum"] == MOST_DELAY_SECONDS


def test_the_documents_words_are_ours(document):
    pattern = document["components"]["schemas"]["NewJob"]["properties"]["first"]["pattern"]
    for letter in map(chr, range(0x3100)):
        try:
            word(f" {letter}\n")
        except ValueError:
            assert not re.search(pattern, f" {letter}\n"), repr(letter)
        else:
            assert re.search(pattern, f" {letter}\n"), repr(letter)


def test_the_page_is_ours_alone(client):
    response = client.get("/api/docs")
    html = response.content.decode()
    assert response.status_code == 200
    assert "//" not in html.replace("<!doctype", "")
    places = re.findall(r'(?:src|href)="([^"]+)"', html)
    static = [place.removeprefix("/static/") for place in places if place.startswith("/static/")]
    assert len(static) == 4
    assert all(finders.find(name) for name in static)
    assert [place for place in places if not place.startswith("/static/")] == ["/api/openapi.json"]
    # No code and no style in the page itself, since the policy would forbid it; Swagger's settings are data.
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", html)
    policy = dict(rule.split(" ", 1) for rule in response["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


def test_the_root_leads_to_the_page(client):
    assert client.get("/api/").url == "/api/docs"


def test_the_page_works_with_digests_in_names(client, settings, tmp_path):
    settings.STATIC_ROOT = str(tmp_path)
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
    }
    call_command("collectstatic", interactive=False, verbosity=0)
    html = client.get("/api/docs").content.decode()
    names = re.findall(r'"/static/([^"]+)"', html)
    assert len(names) == 4
    for name in names:
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", name)
        assert (tmp_path / name).is_file()
