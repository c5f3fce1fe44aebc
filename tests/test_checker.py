"""The checker of faults finds what it looks for: synthetic logs and evidence, each with one thing wrong."""

import copy
import importlib.util
import json
import sys

import pytest

from tests.topology import ROOT

# By its path: the package around it wants a stack that is deployed.
SPEC = importlib.util.spec_from_file_location("quintet_check", ROOT / "verify" / "check.py")
check = sys.modules["quintet_check"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check)

REPLICAS = ["data1", "data2", "data3"]
JOBS = range(10)


def intent(number, at, what="job", of=None):
    """As a stream writes it; `of` is the number of the job that it repeats or reads."""
    job = number if of is None else of
    key, words = f"x-{job}", ["x", f"job{job}"]
    values = {"what": what, "key": key, "words": words, "work_seconds": 0, "delay_seconds": 0}
    return {"at": at, "intent": number, **values}


def answer(number, at, outcome=202, job=None, seconds=0.1):
    job = f"id{number}" if job is None else job
    return {"at": at, "answer": number, "seconds": seconds, "outcome": outcome, "job": job if outcome == 202 else ""}


@pytest.fixture
def entries():
    """Ten jobs, one each second, answered after a tenth."""
    return [entry for n in JOBS for entry in (intent(n, n), answer(n, n + 0.1))]


@pytest.fixture
def evidence():
    """All of them are done, everywhere, half a second after they were accepted."""
    row = {"state": "done", "delay_seconds": 0, "work_seconds": 0}
    times = {n: {"created_at": n, "started_at": n + 0.4, "finished_at": n + 0.5} for n in JOBS}
    rows = {f"x-{n}": {"id": f"id{n}", "result": f"x es job{n}", **row, **times[n]} for n in JOBS}
    effects = {f"id{n}": 1 for n in JOBS}
    lines = {f"id{n}": [f"x es job{n}"] for n in JOBS}
    return check.Evidence(
        rows={replica: copy.deepcopy(rows) for replica in REPLICAS},
        effects={replica: dict(effects) for replica in REPLICAS},
        lines={place: copy.deepcopy(lines) for place in ("results.txt", "files")},
        left={"service": 0},
    )


def test_nothing_is_wrong(entries, evidence):
    entries.append({"at": 3.0, "event": "begins", "hosts": ["data1"]})
    entries += [{"at": 5.0, "event": "heals"}, {"at": 9.0, "event": "whole"}]
    found = check.judge(entries, evidence)
    assert found.wrong == {}
    assert (found.requests, found.accepted, found.raw, found.retried) == (10, 10, 0, 0)
    assert found.gap == pytest.approx(1)
    assert found.delay == pytest.approx(0.5)
    assert (found.restored, found.hosts) == (4, ["data1"])
    assert check.Goal(gap=1.1, raw=0, retried=0, delay=0.6).missed(found) == []


def without_row(evidence):
    del evidence.rows["data2"]["x-4"]


def not_done(evidence):
    evidence.rows["data3"]["x-4"]["state"] = "waiting"


def wrong_result(evidence):
    evidence.rows["data1"]["x-4"]["result"] = "x es job5"


def without_effect(evidence):
    del evidence.effects["data2"]["id4"]


def without_line(evidence):
    del evidence.lines["files"]["id4"]


@pytest.mark.parametrize("spoil", [without_row, not_done, wrong_result, without_effect, without_line])
def test_a_lost_job_is_found(entries, evidence, spoil):
    spoil(evidence)
    found = check.judge(entries, evidence)
    assert [*found.wrong] == ["lost"]
    assert [*found.lost] == ["x-4"]
    assert check.Goal(restored=None).missed(found)


def test_a_job_that_a_client_is_told_is_not_there_is_lost(entries, evidence):
    entries += [intent(20, 9.2, "read", of=4), answer(20, 9.3, 404)]
    assert [*check.judge(entries, evidence).lost] == ["x-4"]


def second_effect(entries, evidence):
    evidence.effects["data2"]["id4"] = 2


def second_line(entries, evidence):
    evidence.lines["results.txt"]["id4"] *= 2


def second_job(entries, evidence):
    entries += [intent(20, 9.2, "again", of=4), answer(20, 9.3, job="another")]


def nobodys_job(entries, evidence):
    entries[:] = [entry for entry in entries if 4 not in (entry.get("intent"), entry.get("answer"))]


@pytest.mark.parametrize("spoil", [second_effect, second_line, second_job, nobodys_job])
def test_a_job_that_was_done_twice_or_that_nobody_wanted_is_found(entries, evidence, spoil):
    spoil(entries, evidence)
    assert [*check.judge(entries, evidence).duplicated] == ["x-4"]


def test_a_repeated_job_is_the_same(entries, evidence):
    entries += [intent(20, 9.2, "again", of=4), answer(20, 9.3, job="id4")]
    assert check.judge(entries, evidence).wrong == {}


def test_what_was_never_answered_is_done_as_a_whole_or_not_at_all(entries, evidence):
    entries[:] = [entry for entry in entries if entry.get("answer") != 4]
    assert check.judge(entries, evidence).wrong == {}
    for replica in REPLICAS:
        del evidence.rows[replica]["x-4"]
    assert check.judge(entries, evidence).wrong == {}
    del evidence.rows["data1"]["x-5"]
    assert [*check.judge(entries, evidence).lost] == ["x-5"]


def test_a_gap_is_found_also_at_the_end(entries, evidence):
    in_the_middle = [entry for entry in entries if entry.get("answer") not in (3, 4, 5)]
    found = check.judge(in_the_middle, evidence)
    assert found.gap == pytest.approx(4)
    assert check.Goal(gap=3.9, restored=None).missed(found) == ["gap 4 > 3.9"]
    at_the_end = [entry for entry in entries if entry.get("answer") not in (7, 8, 9)]
    assert check.judge(at_the_end, evidence).gap == pytest.approx(2.9)


def test_a_failure_counts_once_and_with_a_retry_only_if_that_failed_too(entries, evidence):
    entries[:] = [entry for entry in entries if entry.get("answer") not in (3, 4)]
    entries += [
        answer(3, 3.1, 503),
        answer(3, 3.6),
        answer(4, 4.1, "ConnectionError"),
        answer(4, 4.6, 503),
        answer(4, 5),
    ]
    found = check.judge(entries, evidence)
    assert (found.raw, found.retried, found.outcomes) == (2, 1, {503: 2, "ConnectionError": 1})
    assert check.Goal(raw=1, retried=0, restored=None).missed(found) == ["raw 2 > 1", "retried 1 > 0"]


def test_a_job_that_is_done_late_or_begun_early_is_found(entries, evidence):
    evidence.rows["data1"]["x-4"]["finished_at"] += 20
    found = check.judge(entries, evidence)
    assert found.delay == pytest.approx(20.5)
    assert check.Goal(delay=10, restored=None).missed(found)
    evidence.rows["data1"]["x-4"]["delay_seconds"] = 5
    assert [*check.judge(entries, evidence).early] == ["x-4"]


def test_what_is_left_in_a_queue_and_what_never_becomes_whole_is_found(entries, evidence):
    evidence.left["parked"] = 1
    assert check.Goal().missed(check.judge(entries, evidence)) == ["restored never > 120", "left 1: ('parked', 1)"]


def test_a_line_that_was_cut_off_is_none(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(intent(1, 1)) + '\n{"at": 2, "ans')
    assert [entry["intent"] for entry in check.read(path)] == [1]
