"""What a human wrote: a project's environment, with the places of the services filled in; addresses."""

import ipaddress
import re

# Whatever else stands in braces, JSON for example, is the project's own.
PLACEHOLDER = re.compile(
    r"\{((?:database|broker|results|cache)\.\w+|secret_key|https|local_url|hosts|state|files|authorities)\}"
)


def fill(environment, values):
    """Replace `{database.host}` and the like in the values of a dict, by name. KeyError: there is no such name."""
    return {name: PLACEHOLDER.sub(lambda match: str(values[match[1]]), str(text)) for name, text in environment.items()}


def misfits(environment, names):
    """What `fill` would not know, as `NAME: {database.hots}`."""
    return [
        f"{name}: {match[0]}"
        for name, text in environment.items()
        for match in PLACEHOLDER.finditer(str(text))
        if match[1] not in names
    ]


def no_networks(values):
    """Those that are neither an address nor a network."""

    def is_one(value):
        try:
            return bool(ipaddress.ip_network(value, strict=False))
        except ValueError:
            return False

    return [value for value in values if not is_one(value)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        """By name."""
        return {"fill": fill, "misfits": misfits, "no_networks": no_networks}
