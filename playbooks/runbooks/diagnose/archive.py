"""archive.py PATH: put what hosts have collected into one archive that its owner alone can read, and print its path.

JSON on standard input: `hosts`, what collect.py printed by host, `about`, what is known of the whole, and `secrets`,
which are looked for in all their usual forms.
"""

import base64
import io
import json
import os
import re
import sys
import tarfile
import time
import urllib.parse
import zlib

REMOVED = "[removed]"
# What is shorter is in too many words.
SHORTEST = 6


def forms(secret):
    """A secret as it is, in a URL, in JSON, within quotes, and in base64."""
    yield secret
    yield urllib.parse.quote(secret)
    yield urllib.parse.quote(secret, safe="")
    yield urllib.parse.quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield secret.replace("'", "'\"'\"'")
    yield base64.b64encode(secret.encode()).decode().rstrip("=")


def pieces(secrets):
    """The secrets that are looked for; of one that has lines, each line."""
    lines = {line.strip() for secret in secrets for line in str(secret).splitlines()}
    return {line for line in lines if len(line) >= SHORTEST}


def pattern(secrets):
    """What finds any form of any secret; the longest first, of which others may be a part."""
    found = {form for secret in pieces(secrets) for form in forms(secret)}
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)")


def main():
    """Write it beside its place, and rename: nobody sees half of it."""
    path, given = sys.argv[1], json.load(sys.stdin)
    secret = pattern(given["secrets"])
    files = {"about.json": json.dumps(given["about"], indent=2)}
    for host, words in given["hosts"].items():
        # Of a host that did not answer there is only why.
        found = (
            json.loads(zlib.decompress(base64.b64decode(words["found"]))) if words["found"] else {"why": words["why"]}
        )
        files |= {f"{host}/{name}": text for name, text in found.items()}
    os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    beside = f"{path}.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in files.items():
            content = secret.sub(REMOVED, text).encode()
            entry = tarfile.TarInfo(f"{os.path.basename(path).removesuffix('.tar.gz')}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    os.replace(beside, path)
    print(path)


if __name__ == "__main__":
    main()
