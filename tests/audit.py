"""python -m tests.audit [OPTION...] FILE...: ask OSV what is known against locked requirements, with pip-audit.

Nothing is installed. The status is 1 where something is known, and after any other error. It is skipped, as a line on
stderr says, only where the service cannot be reached.
"""

import os
import runpy
import sys

import requests

# OSV, and not PyPI: where an index is a mirror that knows of no vulnerabilities, pip-audit would find none.
OPTIONS = ["--require-hashes", "--disable-pip", "--strict", "--vulnerability-service=osv", "--progress-spinner=off"]


def not_reached(error):
    """Why the service was not reached, if an error comes of that; one that is there and not itself is no such case."""
    while error:
        if isinstance(error, requests.exceptions.SSLError):
            return None
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            return error
        error = error.__context__
    return None


def main():
    # It warns that OSV does not look at the hashes; pip does.
    os.environ.setdefault("PIP_AUDIT_LOGLEVEL", "ERROR")
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    failed = False
    # One by one, since two files may have different versions.
    for file in [word for word in sys.argv[1:] if not word.startswith("-")]:
        print(f"{file}: ", end="", file=sys.stderr, flush=True)
        sys.argv = ["pip-audit", *OPTIONS, *options, "--requirement", file]
        try:
            # Other than its command, this tells one error from another.
            runpy.run_module("pip_audit", run_name="__main__")
        except (requests.RequestException, SystemExit) as error:
            if reason := not_reached(error):
                print(f"audit skipped, its service cannot be reached: {reason}", file=sys.stderr)
                break
            if not isinstance(error, SystemExit):
                raise
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
