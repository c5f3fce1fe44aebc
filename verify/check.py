"""The checker: what clients were promised, by the log of a stream, against what every replica says was done.

Needs nothing but the two, so that it can be shown to find what it looks for (tests/test_checker.py). The log is JSON,
line by line:

    {"at": 1.5, "intent": 7, "what": "job", "key": "x-7", "words": ["x", "job7"], "work_seconds": 0, "delay_seconds": 0}
    {"at": 1.6, "answer": 7, "seconds": 0.1, "outcome": 202, "job": "3f0c..."}
    {"at": 1.7, "event": "begins", "hosts": ["data1"]}

`what` is `job`, `delayed`, `again` or `read`. The nth answer to an intent is that to its nth try; an outcome is a
status, or the name of an error. Events are `begins` (the fault), `heals` and `whole`. All times are in seconds.
"""

import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

FINE = (200, 202)


@dataclass
class Evidence:
    """What the stack says about the jobs of a stream, from each place that knows.

    `rows`: replica -> key -> row (`id`, `state`, `result`, `created_at`, `started_at`, `finished_at`, `delay_seconds`,
    `work_seconds`; times since 1970). `effects`: replica -> job -> count. `lines`: place -> job -> results.
    `left`: queue -> count of messages.
    """

    rows: dict
    effects: dict
    lines: dict
    left: dict


@dataclass
class Findings:
    """What a stream went through. Seconds are None where there is nothing to measure."""

    requests: int = 0
    accepted: int = 0
    gap: float = 0.0  # longest time without a job that is accepted
    raw: int = 0  # requests whose first try failed
    retried: int = 0  # and whose second did, too
    slowest: float = 0.0  # try
    delay: float = 0.0  # of a job: how much later it was done than it could have been
    restored: float | None = None  # from the remedy until nothing was missing
    hosts: list = field(default_factory=list)  # that the fault happened to
    outcomes: dict = field(default_factory=dict)  # of tries that failed -> count
    lost: dict = field(default_factory=dict)  # key -> why
    duplicated: dict = field(default_factory=dict)
    early: dict = field(default_factory=dict)
    left: dict = field(default_factory=dict)

    @property
    def wrong(self):
        """What may never be, whatever breaks: by its name."""
        return {name: found for name in ("lost", "duplicated", "early", "left") if (found := getattr(self, name))}


@dataclass
class Goal:
    """At most so many seconds, or failed requests; None does not matter. No job may be lost, done twice or early."""

    gap: float | None = None
    raw: int | None = None
    retried: int | None = None
    delay: float | None = None
    restored: float = 120

    def missed(self, findings):
        """What is not as it should be, in words."""
        missed = []
        for name in ("gap", "raw", "retried", "delay", "restored"):
            most, found = getattr(self, name), getattr(findings, name)
            if most is not None and (found is None or found > most):
                missed.append(f"{name} {'never' if found is None else f'{found:.4g}'} > {most:g}")
        return missed + [f"{name} {len(found)}: {next(iter(found.items()))}" for name, found in findings.wrong.items()]


def read(path):
    """The entries of a log. A last line that was cut off, as by a kill, is none."""
    text = Path(path).read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def judge(entries, evidence):
    """The findings from a log and the evidence."""
    intents = {entry["intent"]: entry for entry in entries if "intent" in entry}
    answers = defaultdict(list)
    for entry in entries:
        if "answer" in entry:
            answers[entry["answer"]].append(entry)
    findings = Findings(requests=len(intents), left={name: count for name, count in evidence.left.items() if count})
    _measure_answers(findings, intents, answers)
    events = {entry["event"]: entry for entry in entries if "event" in entry}
    if "begins" in events:
        findings.hosts = events["begins"]["hosts"]
    if {"heals", "whole"} <= events.keys():
        findings.restored = events["whole"]["at"] - events["heals"]["at"]
    _compare(findings, intents, answers, evidence)
    return findings


def _measure_answers(findings, intents, answers):
    accepted = []
    for number, intent in intents.items():
        tries = answers[number]
        fine = [one["outcome"] in FINE for one in tries]
        findings.raw += not any(fine[:1])
        findings.retried += not any(fine[:2])
        for one, good in zip(tries, fine, strict=True):
            findings.slowest = max(findings.slowest, one["seconds"])
            if not good:
                findings.outcomes[one["outcome"]] = findings.outcomes.get(one["outcome"], 0) + 1
            elif intent["what"] in ("job", "delayed"):
                accepted.append(one["at"])
    findings.accepted = len(accepted)
    asked = [intent["at"] for intent in intents.values()]
    if asked:
        moments = sorted([min(asked), *accepted, max(asked)])
        findings.gap = max(later - earlier for earlier, later in itertools.pairwise(moments))


def _compare(findings, intents, answers, evidence):
    wanted, promised = {}, defaultdict(set)
    for number, intent in intents.items():
        key = intent["key"]
        if intent["what"] == "read":
            if any(one["outcome"] == 404 for one in answers[number]):
                findings.lost.setdefault(key, "a client was told that it is not there")
            continue
        wanted[key] = " es ".join(intent["words"])
        promised[key] |= {one["job"] for one in answers[number] if one["job"]}
    for replica, rows in evidence.rows.items():
        for key, row in rows.items():
            # Who never heard an answer was promised nothing. But it was done as a whole, or not at all.
            promised[key].add(row["id"])
            if key not in wanted:
                findings.duplicated.setdefault(key, f"nobody wanted what {replica} has")
    for key, jobs in promised.items():
        if len(jobs) > 1:
            findings.duplicated.setdefault(key, f"{len(jobs)} jobs")
        for job in jobs:
            _compare_job(findings, key, job, wanted.get(key), evidence)


def _compare_job(findings, key, job, result, evidence):
    for replica, rows in evidence.rows.items():
        row = rows.get(key)
        if row is None:
            findings.lost.setdefault(key, f"not on {replica}")
        elif row["state"] != "done":
            findings.lost.setdefault(key, f"{row['state']} on {replica}")
        elif row["result"] != result:
            findings.lost.setdefault(key, f"{row['result']} on {replica}")
        else:
            due = row["created_at"] + row["delay_seconds"]
            findings.delay = max(findings.delay, row["finished_at"] - due - row["work_seconds"])
            if row["started_at"] < due:
                findings.early.setdefault(key, f"by {due - row['started_at']:.2f} s")
    counts = {f"effects on {replica}": count.get(job, 0) for replica, count in evidence.effects.items()}
    counts |= {f"lines in {place}": len(lines.get(job, [])) for place, lines in evidence.lines.items()}
    for place, count in counts.items():
        if count != 1:
            (findings.duplicated if count else findings.lost).setdefault(key, f"{count} {place}")
