"""The state of a rotation, `rotation.json` beside the secrets: its phase, old and new ones by file, and an authority.

state.py DIRECTORY begin FILE...    new secrets, unless a rotation is under way; `tls` stands for the certificates
state.py DIRECTORY phase NUMBER     that phase, unless it has got further
state.py DIRECTORY end
"""

import fcntl
import json
import os
import secrets
import string
import sys
from pathlib import Path


def write(path, content):
    """A file for its owner alone, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def next_authority(directory):
    """The number after the last one."""
    return max((int(path.stem.rpartition("-")[2]) for path in directory.glob("authority-*.pem")), default=0) + 1


def begin(directory, names):
    """The state of a rotation of these, before any of them is new."""
    files = {name: directory / name for name in names if name != "tls"}
    old = {name: file.read_text().rstrip("\n") for name, file in files.items()}
    letters = string.ascii_letters + string.digits
    return {
        "phase": 1,
        "old": old,
        "new": {name: "".join(secrets.choice(letters) for _ in range(len(text))) for name, text in old.items()},
        "authority": next_authority(directory / "tls") if "tls" in names else 0,
    }


def main(directory, what, *rest):
    os.umask(0o077)
    directory = Path(directory)
    path = directory / "rotation.json"
    # Two at once would be one too many.
    with open(directory / ".rotation.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if what == "end":
            path.unlink()
            return
        state = json.loads(path.read_text()) if path.exists() else begin(directory, rest)
        if what == "phase":
            state["phase"] = max(state["phase"], int(rest[0]))
        write(path, json.dumps(state))
        for name, text in state["new"].items():
            if (directory / name).read_text().rstrip("\n") != text:
                write(directory / name, f"{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
