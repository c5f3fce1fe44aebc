"""The picture of the tiers: where each box, line and dot goes. The template `picture.html` only draws.

Web hosts on the left and workers on the right, and between them what they talk to; for a narrow screen one column.
"""

import math

from jobs.templatetags.quintet import duration

from .look import OUTBOX_SECONDS

HEAD, ROW, FOOT = 50, 44, 10
GAP = 24
LETTER, SMALL_LETTER = 7.6, 6.0  # how wide they are on average, with something to spare

WORDS = {"ok": "works", "warning": "look", "failing": "fails", "unknown": "unknown"}
MIDDLE = ("postgresql", "rabbitmq", "redis")


def wide(status):
    """For a screen of some width."""
    tiers = boxes(status)
    side, middle, width = 246, 340, 960
    left, right = (width - middle) / 2, (width + middle) / 2
    column = sum(tiers[name]["height"] + GAP for name in MIDDLE) - GAP
    height = max(column, tiers["web"]["height"], tiers["worker"]["height"])
    y = (height - column) / 2
    for name in MIDDLE:
        place(tiers[name], left, y, middle)
        y += tiers[name]["height"] + GAP
    for name, x in (("web", 0), ("worker", width - side)):
        place(tiers[name], x, (height - tiers[name]["height"]) / 2, side)
    lines = []
    for number, name in enumerate(MIDDLE):
        y = tiers[name]["y"] + HEAD / 2
        for end, start_x, end_x in (("web", side, left), ("worker", width - side, right)):
            start_y = tiers[end]["y"] + tiers[end]["height"] / 2 + (number - 1) * 18
            bend = (start_x + end_x) / 2
            path = f"M{start_x:g} {start_y:g}C{bend:g} {start_y:g} {bend:g} {y:g} {end_x:g} {y:g}"
            lines.append(line(path, tiers[end], tiers[name]))
    return {"width": width, "height": round(height), "boxes": list(tiers.values()), "lines": lines}


def tall(status):
    """For a phone: one column, and the lines in its margins."""
    tiers = boxes(status)
    width, margin, y = 360, 20, 0
    for name in ("web", *MIDDLE, "worker"):
        place(tiers[name], margin, y, width - 2 * margin)
        y += tiers[name]["height"] + GAP
    lines = []
    for number, name in enumerate(MIDDLE):
        for end, edge, out in (
            ("web", margin, 2 + 5 * number),
            ("worker", width - margin, width - 2 - 5 * (2 - number)),
        ):
            start, stop = tiers[end]["y"] + HEAD / 2 + 6 * number, tiers[name]["y"] + HEAD / 2
            bend = 14 if stop > start else -14
            path = f"M{edge} {start:g}Q{out} {start:g} {out} {start + bend:g}V{stop - bend:g}"
            lines.append(line(f"{path}Q{out} {stop:g} {edge} {stop:g}", tiers[end], tiers[name]))
    return {"width": width, "height": y - GAP, "boxes": list(tiers.values()), "lines": lines}


def boxes(status):
    """Each tier as a box with rows: its hosts or servers, the queues and the outbox. Positions come later."""
    tiers = {}
    for tier in status["tiers"]:
        rows = [
            {"state": node["state"], "text": node["name"], "detail": node["detail"], "value": duration(node["seconds"])}
            for node in tier["nodes"]
        ]
        if not rows:
            rows = [{"state": tier["state"], "text": tier["words"], "detail": "", "value": ""}]
        if tier["name"] == "rabbitmq":
            rows += [queue_row(queue) for queue in status["queues"] or ()]
        if tier["name"] == "postgresql" and status["outbox"]:
            rows.append(outbox_row(status["outbox"]))
        word = WORDS[tier["state"]]
        tiers[tier["name"]] = {**tier, "word": word, "rows": rows, "height": HEAD + len(rows) * ROW + FOOT}
    return tiers


def queue_row(queue):
    """A queue: how many wait in it, and who takes from it."""
    if queue["messages"] is None:
        return {"state": "warning", "text": f"queue {queue['name']}", "detail": "is not there", "value": ""}
    takers = f"{queue['consumers']} consumer{'' if queue['consumers'] == 1 else 's'}"
    state = "ok" if queue["consumers"] else "warning"
    return {"state": state, "text": f"queue {queue['name']}", "detail": takers, "value": f"{queue['messages']} waiting"}


def outbox_row(outbox):
    """The outbox: what RabbitMQ has still to get."""
    age = outbox["oldest_seconds"]
    late = age is not None and age > OUTBOX_SECONDS
    detail = f"the oldest for {duration(age)}" if late else "sent as they come"
    return {
        "state": "warning" if late else "ok",
        "text": "outbox",
        "detail": detail,
        "value": f"{outbox['length']} to send",
    }


def place(box, x, y, width):
    """Give a box and its rows their places, and cut what would not fit: the whole text stands below the picture."""
    box |= {"x": x, "y": y, "width": width, "sign_x": width - 34, "word_x": width - 40, "value_x": width - 16}
    room = width - 64
    for number, row in enumerate(box["rows"]):
        row |= {
            "y": HEAD + number * ROW,
            "text": cut(row["text"], room / LETTER - len(row["value"])),
            "detail": cut(row["detail"], room / SMALL_LETTER),
        }


def cut(text, letters):
    """At most so many letters."""
    letters = int(letters)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def line(path, *ends):
    """A line between two tiers: it carries something only if both work."""
    states = {end["state"] for end in ends}
    state = "failing" if "failing" in states else "unknown" if "unknown" in states else "ok"
    return {"path": path, "state": state}


def plot(seconds):
    """The latest round trips as dots in per cent of the plot, on a logarithmic scale, and what they say in numbers."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    low = min(math.floor(math.log10(ordered[0])), -2)
    high = max(math.ceil(math.log10(ordered[-1])), low + 2)
    step = 100 / max(len(seconds) - 1, 1)

    def height(value):
        return round(94 - 88 * (math.log10(value) - low) / (high - low), 2)

    return {
        "count": len(seconds),
        "median": ordered[len(ordered) // 2],
        "most": ordered[math.ceil(len(ordered) * 0.95) - 1],
        "slowest": ordered[-1],
        "median_y": height(ordered[len(ordered) // 2]),
        "dots": [
            {"x": round(step * number, 2), "y": height(value), "seconds": value} for number, value in enumerate(seconds)
        ],
        "scale": [{"y": height(10.0**power), "text": decade(power)} for power in range(low, high + 1)],
    }


def decade(power):
    """A power of ten seconds."""
    return f"{10 ** (power + 3)} ms" if power < 0 else f"{10**power} s"
