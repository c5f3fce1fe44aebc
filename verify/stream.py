"""A steady stream of jobs, with a log of each intent and each answer, and what must be true of them afterwards."""

import contextlib
import heapq
import itertools
import json
import math
import os
import random
import tempfile
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import requests

from verify import BASE, TOPOLOGY, check, contract, eventually, node, visitor
from verify.tiers import sql

TIMEOUT_SECONDS, CONNECT_SECONDS = 20, 3
# Until the second try, which is the only one that counts as a retry; then twice as long each time, up to the last.
PAUSE_SECONDS, LAST_PAUSE_SECONDS, PATIENCE_SECONDS = 0.5, 4, 60
MOST_AT_ONCE = 1000
DATABASE = TOPOLOGY.hosts("postgresql")[0]
BROKER = TOPOLOGY.hosts("rabbitmq")[0]


class Log:
    """A file of JSON lines, each of which is on the disk before `write` returns."""

    def __init__(self, path):
        self.path = Path(path)
        self._file = self.path.open("a")
        self._lock = threading.Lock()

    def write(self, **entry):
        """Append an entry, with the time (`at`, of the wall clock, in seconds) unless it has one."""
        with self._lock:
            self._file.write(json.dumps({"at": time.time()} | entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


@dataclass
class Intent:
    """What a client wants, and what became of it. The key says that a second try means the same job.

    `what` is `job`, `delayed` (a job that a worker gets later), `again` (a job that was accepted, by its key, as
    somebody sends it who did not hear the answer) or `read` (of a job that was accepted).
    """

    number: int
    what: str
    words: tuple = ()
    work_seconds: int = 0
    delay_seconds: int = 0
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job: str = ""
    answers: list = field(default_factory=list)  # (seconds, status or the name of an error)


class Stream:
    """An open loop within its `with`: so many requests a second, whether or not those before have been answered.

    One that fails is tried again, with its key, for a minute. `log` has a line for each intent, written before it is
    sent, and one for each answer: see `check` for their form.
    """

    def __init__(self, per_second=6, work_seconds=1, *, reads=0, delayed=0, again=0, log=None, name="", seed=0):
        """Jobs, reads, delayed jobs and repeated ones, each per second.

        Every fourth job takes `work_seconds`, so that there is always one to interrupt. `name` begins the keys and the
        words of all jobs.
        """
        self.name = name or f"stream-{uuid.uuid4().hex[:8]}"
        self.log = Log(log or Path(tempfile.mkdtemp(prefix="quintet-")) / f"{self.name}.jsonl")
        self.intents, self.others = [], []
        self._rates = {"job": per_second, "delayed": delayed, "again": again, "read": reads}
        self._work_seconds = work_seconds
        self._numbers, self._chance = itertools.count(), random.Random(seed)
        self._sessions = deque()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE)
        self._main = threading.Thread(target=self._run)

    def __enter__(self):
        """Begin, and wait until the first jobs are accepted."""
        self.began = datetime.now(UTC)
        self._main.start()
        eventually(lambda: len(self.accepted) >= 3, 20)
        return self

    def __exit__(self, *failure):
        """Stop asking for more; what is under way is answered, or refused for good."""
        self._stop.set()
        self._main.join()
        self._pool.shutdown()

    @property
    def accepted(self):
        """The jobs that were accepted, as intents."""
        return [intent for intent in self.intents if intent.job]

    @property
    def answers(self):
        """Each answer that a client got: (seconds, status or error)."""
        return [answer for intent in self.intents + self.others for answer in intent.answers]

    def _run(self):
        began = time.monotonic()
        due = [(1 / rate, 1 / rate, what) for what, rate in self._rates.items() if rate]
        heapq.heapify(due)
        while not self._stop.wait(max(0, began + due[0][0] - time.monotonic())):
            at, pause, what = due[0]
            heapq.heapreplace(due, (at + pause, pause, what))
            if intent := self._intent(what):
                self._pool.submit(self._ask, intent)

    def _intent(self, what):
        number = next(self._numbers)
        if what in ("job", "delayed"):
            intent = Intent(number, what, (self.name, f"job{number}"), key=f"{self.name}-{number}")
            if what == "delayed":
                intent.delay_seconds = self._chance.randint(2, 10)
            elif len(self.intents) % 4 == 3:
                intent.work_seconds = self._work_seconds
            self.intents.append(intent)
            return intent
        if not (accepted := self.accepted):
            return None
        of = self._chance.choice(accepted)
        intent = Intent(number, what, of.words, of.work_seconds, of.delay_seconds, of.key)
        if what == "read":
            intent.job = of.job
        self.others.append(intent)
        return intent

    def _ask(self, intent):
        wanted = {name: getattr(intent, name) for name in ("what", "key", "words", "work_seconds", "delay_seconds")}
        self.log.write(intent=intent.number, **wanted, **({"job": intent.job} if intent.what == "read" else {}))
        pause, deadline = PAUSE_SECONDS, time.monotonic() + PATIENCE_SECONDS
        while not self._try(intent) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _try(self, intent):
        began, job = time.monotonic(), ""
        session = self._sessions.pop() if self._sessions else visitor()
        try:
            answer = self._send(session, intent)
            outcome = answer.status_code
            if fine := outcome in (200, 202):
                job = answer.json()["id"]
        except requests.RequestException as exc:
            outcome, fine = type(exc).__name__, False
        self._sessions.append(session)
        seconds = time.monotonic() - began
        self.log.write(answer=intent.number, seconds=round(seconds, 4), outcome=outcome, job=job)
        intent.answers.append((seconds, outcome))
        if fine:
            intent.job = job
        return fine

    def _send(self, session, intent):
        timeout = (CONNECT_SECONDS, TIMEOUT_SECONDS)
        if intent.what == "read":
            return session.get(f"{BASE}/api/jobs/{intent.job}", timeout=timeout)
        first, second = intent.words
        content = {"first": first, "second": second, "work_seconds": intent.work_seconds}
        if intent.delay_seconds:
            content["delay_seconds"] = intent.delay_seconds
        headers = {"Idempotency-Key": intent.key}
        return session.post(f"{BASE}/api/jobs", json=content, headers=headers, timeout=timeout)


ROWS = """
SELECT json_build_object('key', idempotency_key, 'id', id, 'state', state, 'result', result,
'created_at', extract(epoch FROM created_at), 'started_at', extract(epoch FROM started_at),
'finished_at', extract(epoch FROM finished_at), 'delay_seconds', delay_seconds, 'work_seconds', work_seconds)
FROM jobs_job WHERE idempotency_key LIKE '{name}-%'
"""
EFFECTS = "SELECT task_id, count(*) FROM joining_joined WHERE text LIKE '{name} es %' GROUP BY task_id"


def messages():
    """What is in the queues: queue -> count of messages, ready and unacknowledged."""
    rows = node(BROKER).check_output(
        f"rabbitmqctl --quiet list_queues --vhost {contract('broker_vhost')} name messages --no-table-headers"
    )
    return {name: int(count) for name, count in (row.split("\t") for row in rows.splitlines())}


def evidence(stream):
    """What each place says about the jobs of a stream: servers of PostgreSQL, results.txt, the files, the queues."""
    rows, effects = {}, {}
    for replica in TOPOLOGY.hosts("postgresql"):
        found = map(json.loads, sql(replica, ROWS.format(name=stream.name), "producer").splitlines())
        rows[replica] = {row["key"]: row for row in found}
        counts = (line.split("|") for line in sql(replica, EFFECTS.format(name=stream.name), "service").splitlines())
        effects[replica] = {job: int(count) for job, count in counts}
    since = {"since": stream.began.isoformat()}
    answer = visitor().get(f"{BASE}/results.txt", params=since, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    # Each line is in the file of one worker.
    files = [
        node(host).run(f"grep -F {stream.name} /var/lib/producer/results.txt").stdout
        for host in TOPOLOGY.hosts("worker")
    ]
    texts = {"results.txt": answer.text, "the workers' files": "\n".join(files)}
    lines = {place: {} for place in texts}
    for place, text in texts.items():
        for line in filter(None, text.splitlines()):
            _, job, _, _, result = line.split("\t")
            lines[place].setdefault(job, []).append(result)
    return check.Evidence(rows, effects, lines, messages())


def findings(stream, seconds=90):
    """What the checker finds, once nothing is missing any more, or for so many seconds no less is missing."""
    entries, found, least = check.read(stream.log.path), None, math.inf
    deadline = time.monotonic() + seconds
    while least and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            found = check.judge(entries, evidence(stream))
            if (missing := len(found.lost) + len(found.left)) < least:
                least, deadline = missing, time.monotonic() + seconds
        time.sleep(0.5)
    assert found, "nobody can be asked"
    return found


def assert_nothing_lost(stream, *, slowest, refused=(), seconds=90):
    """Each accepted job was done, exactly once; no answer took longer than `slowest` seconds; no queue has any left.

    `refused` are the answers that a client may get besides, because a fault leaves no other. Gives the findings.
    """
    assert len(stream.accepted) == len(stream.intents), "a job was not accepted"
    found = findings(stream, seconds)
    assert not found.wrong, found
    assert found.outcomes.keys() <= set(refused), found
    assert found.slowest < slowest, found
    return found
