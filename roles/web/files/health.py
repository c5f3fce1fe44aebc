"""health.py JSON: start new releases as their services would be started, on sockets of their own, and ask for a page.

JSON is a list of {project, directory, release, gunicorn, prefix, path, host, statuses, tcp, seconds}. What runs as it
is already, and what has no release before it, is left to the service itself. Ends with 1 and the release's own words if
one of them does not become healthy.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time

UNITS = "/etc/systemd/system"
PAUSE_SECONDS = 0.2
LINES = 30


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, host):
        super().__init__(host, timeout=10)
        self.path = path

    def connect(self):
        """To the socket, whatever the host is called."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def read(path):
    """The bytes of a file, or nothing."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()


def is_new(site):
    """Whether something runs that is to be replaced: by another release, environment, or command."""
    home = site["directory"]
    current = os.path.join(home, "current")
    if not os.path.islink(current):
        return False
    same = os.path.basename(os.readlink(current)) == site["release"]
    command = f"/gunicorn {site['gunicorn']}\n".encode()
    return not (
        same
        and read(f"{home}/environment") == read(f"{home}/environment.next")
        and command in (read(f"{UNITS}/gunicorn-{site['project']}.service") or command)
    )


def wrong_with(site, path):
    """What is wrong with its answer, or nothing."""
    try:
        connection = Connection(path, site["host"])
        connection.connect()
        if site["tcp"]:
            return ""
        connection.request("GET", site["prefix"] + site["path"])
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return f"no answer ({type(exc).__name__}: {exc})"
    return "" if status in site["statuses"] else f"status {status}"


def stop(unit):
    """Whether or not it runs."""
    subprocess.run(["systemctl", "stop", unit], stderr=subprocess.DEVNULL)


def check(site):
    """Start it, ask it, stop it; returns what is wrong, or nothing."""
    unit = f"try-{site['project']}.service"
    path = f"/var/lib/{site['project']}/try.sock"
    command = ["quintet-manage", "--release", site["release"], "--unit", unit, "--module", "gunicorn", site["project"]]
    command += [*site["gunicorn"].split(), "--bind", f"unix:{path}", "--workers", "1"]
    stop(unit)  # of a try that was killed
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + site["seconds"]
        while (wrong := wrong_with(site, path)) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(PAUSE_SECONDS)
        stop(unit)
        said = process.communicate()[0]
    if not wrong:
        return ""
    page = "its socket" if site["tcp"] else site["prefix"] + site["path"]
    last = "\n".join(said.splitlines()[-LINES:])
    return f"{site['project']} {site['release']} is not healthy: {page}: {wrong}. It says:\n{last}"


def main():
    """All of them, even when one is ill."""
    wrong = [text for text in map(check, filter(is_new, json.loads(sys.argv[1]))) if text]
    for text in wrong:
        print(text, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
