"""One look at the five tiers: their answers, put together as data that JSON can hold."""

from django.utils import timezone

from . import seen
from .questions import PING_SECONDS, ask

OK, WARNING, FAILING, UNKNOWN = "ok", "warning", "failing", "unknown"

PATIENCE_SECONDS = 2.4  # for one look, everything together
SILENT_SECONDS = 15  # who was seen before and not for so long fails
OUTBOX_SECONDS = 10  # what is older should have been sent

TITLES = {"web": "Web", "postgresql": "PostgreSQL", "rabbitmq": "RabbitMQ", "redis": "Redis", "worker": "Workers"}
# What a person wants to know next about a tier that fails.
EFFECTS = {
    "web": "The other hosts serve the pages, and send what is in the outbox.",
    "postgresql": "No job is accepted until PostgreSQL is back.",
    "rabbitmq": "Jobs are accepted and kept, and done when RabbitMQ is back.",
    "redis": "No job is lost. Results only take longer to show.",
    "worker": "Jobs are accepted, and wait until a worker is back.",
}


def look(patience=PATIENCE_SECONDS, redis=None):
    """Ask all tiers and put their answers together. No tier makes this raise, or take more than `patience` seconds."""
    answers = ask(patience)
    tables, _ = answers["postgresql"]
    broker, _ = answers["rabbitmq"]
    workers, _ = answers["worker"]
    ages = seen.note([seen.WEB, *(workers or ())], redis)
    tiers = {
        "web": web_tier(tables, ages),
        "postgresql": postgresql_tier(*answers["postgresql"]),
        "rabbitmq": rabbitmq_tier(*answers["rabbitmq"]),
        "redis": redis_tier(*answers["redis"]),
        "worker": worker_tier(workers, broker, ages),
    }
    for name, tier in tiers.items():
        tier |= {"name": name, "title": TITLES[name]}
        tier.setdefault("effect", EFFECTS[name] if tier["state"] == FAILING else "")
        if not tables and name != "postgresql":
            tier["effect"] = ""  # what goes on without that tier does not go on without PostgreSQL
    state = worst(tiers.values())
    tables = tables or {}
    return {
        "at": timezone.now().isoformat(timespec="milliseconds"),
        "asked_by": seen.WEB.partition("@")[2],
        "state": state,
        "headline": headline(state, tiers.values()),
        "tiers": list(tiers.values()),
        "queues": broker["queues"] if broker else None,
        "outbox": tables.get("outbox"),
        "jobs": tables.get("jobs"),
        "parked_tasks": tables.get("parked_tasks"),
        "roundtrips": tables.get("roundtrips"),
    }


def worst(things):
    """The worst state among things that have one."""
    states = {thing["state"] for thing in things}
    return next((state for state in (FAILING, WARNING, UNKNOWN) if state in states), OK)


def headline(state, tiers):
    """The whole in a few words."""
    if state == OK:
        return "All five tiers work"
    titles = [tier["title"] for tier in tiers if tier["state"] == state]
    if len(titles) == 1:
        return next(f"{tier['title']}: {tier['words']}" for tier in tiers if tier["state"] == state)
    listed = f"{', '.join(titles[:-1])} and {titles[-1]}"
    return f"{listed} fail" if state == FAILING else f"{listed} should be looked at"


def node(name, state, *details, seconds=None):
    """One host or server of a tier."""
    return {"name": name, "state": state, "detail": " · ".join(filter(None, details)), "seconds": seconds}


def web_tier(tables, ages):
    """The web hosts: each one's heartbeat, and whether PostgreSQL sees its relay."""
    relays = tables["relays"] if tables else None
    hosts = {name.removeprefix("web@"): age for name, age in ages.items() if name.startswith("web@")}
    nodes = []
    for host in sorted({*hosts, *(relays or ())}):
        if host not in hosts:
            nodes.append(node(host, WARNING, "no pages", "relay"))
        elif hosts[host] > SILENT_SECONDS:
            nodes.append(node(host, FAILING, f"silent for {hosts[host]:.0f} s"))
        elif relays is None:
            nodes.append(node(host, OK, "pages"))
        else:
            there = host in relays
            nodes.append(node(host, OK if there else WARNING, "pages", "relay" if there else "no relay"))
    state = worst(nodes)
    words = {OK: "works", WARNING: "a host lacks a part", FAILING: "a host is silent"}[state]
    if relays == []:
        effect = "Jobs are accepted and kept, and sent when a relay runs again."
        return {"state": FAILING, "words": "no relay runs", "nodes": nodes, "effect": effect}
    if tables and (tables["outbox"]["oldest_seconds"] or 0) > OUTBOX_SECONDS and state == OK:
        state, words = WARNING, "tasks wait in the outbox"
    return {"state": state, "words": words, "nodes": nodes}


def postgresql_tier(said, wrong):
    """The server."""
    if wrong:
        return {"state": FAILING, "words": wrong, "nodes": []}
    state, words = (OK, "works") if said["role"] == "primary" else (FAILING, "takes no writes")
    connections = f"{said['connections']} connection{'' if said['connections'] == 1 else 's'}"
    details = (said["role"], said["version"], connections)
    return {"state": state, "words": words, "nodes": [node(said["name"], state, *details, seconds=said["seconds"])]}


def redis_tier(servers, wrong):
    """The servers of the cache and of the results."""
    if wrong:
        return {"state": FAILING, "words": wrong, "nodes": []}
    nodes = [
        node(
            said["name"],
            OK,
            " + ".join(said["uses"]),
            megabytes(said["memory"]) + (f" of {megabytes(said['most_memory'])}" if said["most_memory"] else ""),
            said["role"],
            said["version"],
            seconds=said["seconds"],
        )
        for said in servers
    ]
    return {"state": OK, "words": "works", "nodes": nodes}


def rabbitmq_tier(said, wrong):
    """The node that answered."""
    if wrong:
        return {"state": FAILING, "words": wrong, "nodes": []}
    missing = [queue["name"] for queue in said["queues"] if queue["messages"] is None]
    state, words = (WARNING, f"has no queue {' and no '.join(missing)}") if missing else (OK, "works")
    return {
        "state": state,
        "words": words,
        "nodes": [node(said["name"], OK, said["version"], seconds=said["seconds"])],
    }


def worker_tier(workers, broker, ages):
    """The workers: those that answer, and those that did so before."""
    nodes = []
    for name, age in sorted(ages.items(), key=lambda item: item[0].partition("@")[::-1]):
        project, _, host = name.partition("@")
        said = (workers or {}).get(name)
        if project == "web":
            continue
        if workers is None:
            nodes.append(node(host, UNKNOWN, project))
        elif said:
            nodes.append(node(host, OK, project, f"{said['processes']} at once", f"{said['tasks']} done"))
        else:
            # Busy for a moment, or gone?
            nodes.append(node(host, FAILING if age > SILENT_SECONDS else WARNING, project, f"silent for {age:.0f} s"))
    consumers = {queue["name"]: queue["consumers"] for queue in broker["queues"]} if broker else {}
    if workers is None:
        state, words = UNKNOWN, "cannot be asked: the way is through RabbitMQ"
    elif consumers.get("service") == 0:
        state, words = FAILING, "nobody takes the jobs"
    elif consumers.get("results") == 0:
        state, words = FAILING, "nobody brings the results home"
    elif not workers:
        state, words = FAILING, f"nobody answers within {PING_SECONDS} s"
    else:
        state = worst(nodes)
        words = "work" if state == OK else "one is silent"
    return {"state": state, "words": words, "nodes": nodes}


def megabytes(size):
    """A size as people read it."""
    return f"{size / 1048576:.0f} MB" if size > 10485760 else f"{size / 1048576:.1f} MB"
