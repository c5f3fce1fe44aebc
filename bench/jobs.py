"""How fast jobs are, as ratios measured in one run on one deployed topology.

Two references, with the same task on the same nodes: the bare Celery loop (quorum queue, confirms, late acks), and the
original design (a view that loops until the result is ready). Prints a table; exits with 1 when a goal is missed.
"""

import http.client
import itertools
import json
import os
import shlex
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from bench.deploy import SOURCES, playbook  # noqa: E402

os.environ["ANSIBLE_INVENTORY"] = ",".join(SOURCES)
from verify import FIRST, contract, node  # noqa: E402
from verify.stream import DATABASE  # noqa: E402

ROUNDS, TASKS, BATCH, SECONDS, CLIENTS = 200, 2000, 100, 8, (1, 10, 50)
PORT, ORIGINAL_PORT = int(contract("http_port")), 8099
PSQL = ("psql", "-XqtA", "producer", "-c")
TRIP_GOAL, RATE_GOAL = 4, 0.8


def reference(host, project, unit, *command, wait=False):
    """Run something of reference.py on a host, with a project's packages and environment, as a unit of its own."""
    text = (Path(__file__).parent / "reference.py").read_text()
    node(host).check_output(f"mkdir -p /run/reference; cat >/run/reference/reference.py <<'END'\n{text}\nEND")
    # It declares the service's queue, which no other project may.
    project_of_people = {"broker": {"user": contract("broker_user"), "vhost": contract("broker_vhost")}}
    url = contract("broker_url", project=project_of_people)
    node(host).check_output(f"umask 077; cat >/run/reference/environment <<'END'\nCELERY_BROKER_URL={url}\nEND")
    home = f"{contract('projects_directory')}/{project}"
    arguments = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--working-directory=/run/reference"]
    arguments += ["--property=UnsetEnvironment=DJANGO_SETTINGS_MODULE"]
    arguments += ["--wait", "--pipe"] if wait else []
    arguments += [
        f"--property=EnvironmentFile={home}/environment",
        "--property=EnvironmentFile=/run/reference/environment",
        f"{home}/current/venv/bin/{command[0]}",
        *command[1:],
    ]
    return node(host).check_output(shlex.join(arguments))


def quantile(values, part):
    """The value below which such a part of them is."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


class Clients:
    """Clients that want one result after another, side by side, each on a connection of its own."""

    def __init__(self, count, port, turn):
        """`turn(ask)` says if it got what it wanted, by `ask(method, path, body, headers)` -> (status, body)."""
        self.count, self.port, self.turn = count, port, turn
        self.took, self.failed = [], 0

    def run(self, seconds=None, each=None):
        """For some seconds, or so many turns each."""
        deadline = time.perf_counter() + (seconds or 3600)
        threads = [threading.Thread(target=self._run, args=(deadline, each)) for _ in range(self.count)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - started
        return self

    def _run(self, deadline, each):
        connection = http.client.HTTPConnection(contract("host_address"), self.port, timeout=30)

        def ask(*request):
            connection.request(*request)
            answer = connection.getresponse()
            return answer.status, answer.read()

        for _ in itertools.repeat(None, each) if each else itertools.count():
            started = time.perf_counter()
            if started > deadline:
                break
            try:
                fine = self.turn(ask)
            except (OSError, http.client.HTTPException):
                fine = False
                connection.close()
            self.took.append(time.perf_counter() - started)
            self.failed += not fine
        connection.close()


HEADERS = {"Host": contract("app_hostnames")[0], "Content-Type": "application/json"}
WORDS = {"first": "a", "second": "b"}


def accepted(ask):
    """A job that nobody waits for."""
    return ask("POST", "/api/jobs", json.dumps(WORDS), HEADERS)[0] in (200, 202)


def many_accepted(ask):
    """A hundred of them by one request."""
    return ask("POST", "/api/jobs/batch", json.dumps({"jobs": [WORDS] * BATCH}), HEADERS)[0] in (200, 202)


def done(ask):
    """A job and its result, however often we have to ask."""
    status, body = ask("POST", "/api/jobs?wait=10", json.dumps(WORDS), HEADERS)
    while status in (200, 202) and json.loads(body)["state"] == "waiting":
        time.sleep(0.02)
        status, body = ask("GET", f"/api/jobs/{json.loads(body)['id']}?wait=10", None, HEADERS)
    return status in (200, 202) and json.loads(body)["result"] == "a es b"


def original(ask):
    """The original design."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask("POST", "/", urlencode(WORDS), headers)[1] == b"a es b"


def psql(text):
    """What the producer's database says."""
    return node(DATABASE).check_output(shlex.join(["runuser", "-u", "postgres", "--", *PSQL, text]))


def jobs_per_second(turn, size=1):
    """Jobs that are accepted without waiting, until the last one's result has come home."""
    count = "SELECT count(*) FROM jobs_job WHERE state = 'done'"
    goal = int(psql(count)) + TASKS
    clients = Clients(4, PORT, turn).run(each=TASKS // 4 // size)
    started = time.perf_counter() - clients.seconds
    assert not clients.failed
    # One question that waits: many would take what is measured.
    psql(f"DO $$ BEGIN WHILE ({count}) < {goal} LOOP PERFORM pg_sleep(0.05); END LOOP; END $$")
    return TASKS / (time.perf_counter() - started)


def measure():
    """All of it, on a stack that is deployed."""
    node(FIRST).check_output(f"nft add rule inet quintet input tcp dport {ORIGINAL_PORT} accept")
    reference(
        FIRST, "producer", "reference-web", "gunicorn", "-k", "gthread", "--workers", "4", "--threads", "4",
        "--bind", f"0.0.0.0:{ORIGINAL_PORT}", "reference:application",
    )  # fmt: skip
    Clients(4, PORT, done).run(each=20)

    def bare(what, count):
        return json.loads(
            reference(FIRST, "producer", "reference-loop", "python", "reference.py", what, str(count), wait=True)
        )

    # In turn, because a machine is never quiet for minutes; medians count.
    tries = [
        (bare("round", ROUNDS)["p50"], statistics.median(Clients(1, PORT, done).run(each=ROUNDS).took))
        for _ in range(3)
    ]
    rates = [
        (bare("rate", TASKS)["rate"], jobs_per_second(many_accepted, BATCH), jobs_per_second(accepted))
        for _ in range(5)
    ]
    bare_p50, p50 = (statistics.median(column) for column in zip(*tries, strict=True))
    bare_rate, rate, single_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    trip_ratio, rate_ratio = p50 / bare_p50, rate / bare_rate
    print(f"round trip p50 {p50 * 1000:.1f} ms, bare loop {bare_p50 * 1000:.1f} ms: {trip_ratio:.2f}, goal {TRIP_GOAL}")
    print(f"sustained {rate:.0f} jobs/s, bare loop {bare_rate:.0f} tasks/s: {rate_ratio:.2f}, goal {RATE_GOAL}")
    print(f"  accepted one by one: {single_rate:.0f} jobs/s: {single_rate / bare_rate:.2f}")
    print(f"{'':12}{'clients':>8}{'jobs/s':>8}{'p50 ms':>8}{'p95 ms':>8}{'failed':>8}")
    for count in CLIENTS:
        for name, port, turn in (("original", ORIGINAL_PORT, original), ("ours", PORT, done)):
            clients = Clients(count, port, turn).run(seconds=SECONDS)
            finished, p95 = len(clients.took) - clients.failed, quantile(clients.took, 0.95)
            print(
                f"{name:12}{count:8}{finished / clients.seconds:8.1f}{statistics.median(clients.took) * 1000:8.1f}"
                f"{p95 * 1000:8.1f}{clients.failed:8}",
                flush=True,
            )
    return trip_ratio <= TRIP_GOAL and rate_ratio >= RATE_GOAL


def main():
    playbook("nodes/destroy")
    playbook("nodes/create")
    # A client here stands for many.
    projects = contract("django_projects")
    for project in projects:
        project["environment"] = {"API_REQUESTS_PER_MINUTE": "0"}
    playbook("deploy", "--extra-vars", json.dumps({"django_projects": projects}))
    try:
        good = measure()
    finally:
        playbook("nodes/destroy")
    sys.exit(not good)


if __name__ == "__main__":
    main()
