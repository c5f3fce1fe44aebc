"""look.py JSON: what apt would upgrade on this host, as a line of JSON. Nothing is installed.

Asked are `parts`, a list of packages by the name of what they make; `held`, the beginnings of names of what has data;
and `named`, the packages of the tier whose data may be touched. The answer has `upgrades`, as texts; `waiting`, the
same for what is held and was not named; `touched`, the parts in which something changes; and `refused`, sentences.
PREFERENCES keeps apt to this, for whoever names CONFIGURATION in APT_CONFIG.
"""

import json
import os
import re
import subprocess
import sys

DIRECTORY = "/run/quintet/upgrade"
CONFIGURATION, PREFERENCES = f"{DIRECTORY}/apt.conf", f"{DIRECTORY}/preferences"
CHANGE = re.compile(r"^Inst (\S+)(?: \[(\S+)\])? \((\S+)", re.MULTILINE)


def said(*command, **environment):
    """What a command prints."""
    environment = os.environ | {"LC_ALL": "C"} | environment
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def parsed(text):
    """The changes that `apt-get --simulate` prints: by name, the versions before (empty for what is new) and after."""
    return {name: (before, after) for name, before, after in CHANGE.findall(text)}


def changes(**environment):
    """The upgrades that apt would make."""
    return parsed(said("apt-get", "--simulate", "upgrade", "--with-new-pkgs", **environment))


def closure(packages):
    """The names of packages, and of all installed ones that they need."""
    if not packages:
        return set()
    lines = said("apt-cache", "depends", "--recurse", "--installed", "--important", *packages).splitlines()
    return {line.partition(":")[0] for line in lines if not line.startswith((" ", "<"))}


def keep(names):
    """Have apt leave these as they are."""
    os.makedirs(DIRECTORY, exist_ok=True)
    text = ""
    if os.path.exists("/etc/apt/preferences"):
        with open("/etc/apt/preferences") as file:
            text = file.read() + "\n"
    if names:
        text += f"Package: {' '.join(names)}\nPin: release *\nPin-Priority: -1\n"
    for path, content in {PREFERENCES: text, CONFIGURATION: f'Dir::Etc::Preferences "{PREFERENCES}";\n'}.items():
        with open(path, "w") as file:
            file.write(content)


def numbers(version):
    """The first two numbers of a version; its epoch aside."""
    return [int(number) for number in re.findall(r"\d+", version.rpartition(":")[2])[:2]]


def refused(upgrades, disabled_flags):
    """Why these may not be, as sentences. The flags of RabbitMQ are asked for only if it is among them."""
    found = []
    for name, (before, after) in upgrades.items():
        if re.fullmatch(r"postgresql-\d+", name) and (not before or numbers(before)[0] != numbers(after)[0]):
            found.append(
                f"{name} {after} is another major version of PostgreSQL, whose data must be moved: by a backup and a"
                " restore, and not by an upgrade of packages"
            )
        if name == "rabbitmq-server":
            (major, minor), new = numbers(before), numbers(after)
            # The last of a major leads to the next one: see RabbitMQ's page on upgrades.
            if new not in ([major, minor], [major, minor + 1]) and ([major, minor], new) != ([3, 13], [4, 0]):
                found.append(
                    f"RabbitMQ goes from {before} to {after}, which skips a minor version: go by those between, which"
                    " enable what the next one requires"
                )
            if flags := disabled_flags():
                found.append(
                    f"RabbitMQ's feature flags {', '.join(flags)} are disabled, and a new version may require them: say"
                    " rabbitmqctl enable_feature_flag all, and see that all is well"
                )
    return found


def disabled_flags():
    """The feature flags of RabbitMQ that are disabled; experiments aside."""
    columns = ["name", "state", "stability"]
    flags = json.loads(said("rabbitmqctl", "--quiet", "list_feature_flags", *columns, "--formatter", "json"))
    return [flag["name"] for flag in flags if flag["state"] == "disabled" and flag["stability"] != "experimental"]


def texts(changed):
    """As people read it."""
    return [f"{name} {before or 'nothing'} -> {after}" for name, (before, after) in sorted(changed.items())]


def main():
    asked = json.loads(sys.argv[1])
    installed = said("dpkg-query", "--show", "--showformat", "${Package}\n").split()
    data = {name for name in installed if name.startswith(tuple(asked["held"]))}
    keep(sorted(data - closure(asked["named"])))
    upgrades = changes(APT_CONFIG=CONFIGURATION)
    answer = {
        "upgrades": texts(upgrades),
        "waiting": texts({name: change for name, change in changes().items() if name not in upgrades}),
        "touched": [part for part, packages in asked["parts"].items() if upgrades.keys() & closure(packages)],
        "refused": refused(upgrades, disabled_flags),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
