"""The table of a project's options in docs/bring-your-project.md: made from playbooks/vars/settings.yml.

python -m tests.options writes it into the page.
"""

import yaml

from tests.topology import ROOT

PAGE = ROOT / "docs/bring-your-project.md"
BEGIN, END = "<!-- options: python -m tests.options -->\n", "<!-- /options -->\n"


def rows(options, where=""):
    """A line for each option, and for those in it."""
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        kind = " or ".join(f"`{choice}`" for choice in option["choices"]) if "choices" in option else kind
        default = option.get("default")
        if option.get("required"):
            default = "required"
        elif default in (None, "", [], {}):
            default = ""
        else:
            default = (
                "`" + yaml.safe_dump(default, default_flow_style=True, width=200).removesuffix("...\n").strip() + "`"
            )
        yield f"| `{where}{name}` | {kind} | {default} | {' '.join(option['description'].split())} |"
        yield from rows(option.get("options", {}), f"{where}{name}.")


def table():
    """The whole table."""
    settings = yaml.safe_load((ROOT / "playbooks/vars/settings.yml").read_text())
    head = ["| option | type | default | |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows(settings["django_projects"]["options"])]) + "\n"


def page():
    """The page with the table in it."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
