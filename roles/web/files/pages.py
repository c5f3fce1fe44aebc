"""pages.py JSON: ask sites for their pages, again and again until each answers as it should or its time is up.

JSON is a list of {project, url, host, statuses, seconds}. No certificate is checked: the name in it is not the address
that is asked. Ends with 1 and a sentence for each page that was not there in time.
"""

import http.client
import json
import ssl
import sys
import time
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10
PAUSE_SECONDS = 0.5


def wrong_with(page):
    """What is wrong with one answer, or nothing."""
    url = urlsplit(page["url"])
    if url.scheme == "https":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(url.netloc, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", url.path or "/", headers={"Host": page["host"]})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return f"no answer ({type(exc).__name__}: {exc})"
    finally:
        connection.close()
    return "" if status in page["statuses"] else f"status {status}"


def ask(page):
    """Wait for it; returns what is wrong in the end, or nothing."""
    deadline = time.monotonic() + page["seconds"]
    while (wrong := wrong_with(page)) and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
    return wrong and f"quintet: {page['project']}: {page['url']} for {page['host']}: {wrong}"


def main():
    """All of them, even when one is ill."""
    wrong = [text for text in map(ask, json.loads(sys.argv[1])) if text]
    for text in wrong:
        print(text, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
