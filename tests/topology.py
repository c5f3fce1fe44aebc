"""An inventory as Ansible sees it: groups, and variables rendered for a host. For the fast tests and for verify/.

Rendering is Ansible's own: a variable that is not defined is an error here as it is in a deploy.
"""

import os
from functools import cached_property
from pathlib import Path

from ansible._internal._templating._jinja_bits import AnsibleEnvironment, _TemplateCompileContext
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).parent.parent

init_plugin_loader()


def remembering(compiling):
    """Jinja's compilation, once for each text: it is two thirds of what rendering costs, and Ansible forgets it."""
    known = {}

    def compiled(environment, source, *arguments, **more):
        context = _TemplateCompileContext.current(optional=True)
        lexing = (environment.variable_start_string, environment.block_start_string, environment.trim_blocks)
        # A syntax tree, as of a condition, has no text to know it by.
        key = (source, arguments, *more.items(), context and context.escape_backslashes, *lexing)
        if not isinstance(source, str):
            return compiling(environment, source, *arguments, **more)
        if key not in known:
            known[key] = compiling(environment, source, *arguments, **more)
        return known[key]

    return compiled


AnsibleEnvironment.compile = remembering(AnsibleEnvironment.compile)


class Topology:
    """The inventory of some sources, in the order in which `-i` would name them.

    `extra` are variables that win over all others, as `-e` does. A host or group that is not there is a LookupError.
    """

    def __init__(self, *sources, extra=None):
        self.sources = [str(ROOT / source) for source in sources]
        self.extra = extra or {}

    @classmethod
    def of_environment(cls):
        """The inventory that ANSIBLE_INVENTORY names: the one that the surrounding Molecule scenario deployed."""
        return cls(*os.environ["ANSIBLE_INVENTORY"].split(","))

    @cached_property
    def _inventory(self):
        return InventoryManager(loader=DataLoader(), sources=self.sources)

    @cached_property
    def _variables(self):
        manager = VariableManager(loader=self._inventory._loader, inventory=self._inventory)
        # What a playbook's run knows besides: the sources, and every other host's variables.
        manager._extra_vars = {"ansible_inventory_sources": self.sources, **self.extra}
        manager._hostvars = HostVars(self._inventory, manager, self._inventory._loader)
        return manager

    @property
    def groups(self):
        """The hosts of each group, by its name."""
        return {name: [host.name for host in group.get_hosts()] for name, group in self._inventory.groups.items()}

    def hosts(self, group="all"):
        """The names of a group's hosts. A group without hosts is an error: a test over nothing would pass."""
        hosts = self.groups.get(group)
        if not hosts:
            raise LookupError(f"no hosts in group {group} of {self.sources}")
        return hosts

    def templar(self, host, **more):
        """Ansible's templar with all that the host knows, and `more`."""
        found = self._inventory.get_host(host)
        if found is None:
            raise LookupError(f"no host {host} in {self.sources}")
        variables = self._variables.get_vars(host=found, _hosts=self.hosts()) | more
        return Templar(loader=self._inventory._loader, variables=variables)

    def render(self, host, expression, **more):
        """The value of a Jinja expression on a host, such as `broker_url`."""
        return self.templar(host, **more).template(trust_as_template("{{ " + expression + " }}"))

    def backend(self, host):
        """The host as testinfra reaches it: a container as such, also where a deploy comes by SSH, or else over SSH."""
        if node := self.render(host, "node_name | default('')"):
            return f"docker://{node}"
        address = self.render(host, "ansible_host | default(inventory_hostname)")
        user = self.render(host, "ansible_user | default('')")
        return f"ssh://{user + '@' if user else ''}{address}?sudo=true"

    def backends(self, group="all"):
        """All hosts of a group, for a module's `testinfra_hosts`."""
        return [self.backend(host) for host in self.hosts(group)]
