"""A template of a role, rendered: what ansible.builtin.template does, without its copy of every variable there is."""

DOCUMENTATION = r"""
name: rendered
short_description: The text of a template
description:
  - Like the lookup C(ansible.builtin.template), which copies all variables, deeply, each time it is asked. That was a
    seventh of a deploy with nothing to change.
options:
  _terms: {description: "Names of templates, which are looked for where the role has them.", required: true}
  template_vars: {description: Variables that the template sees besides., type: dict, default: {}}
author: Quintet
"""

EXAMPLES = r"""
- name: Write a unit for each worker
  systemd_units:
    files:
      - path: "/etc/systemd/system/{{ item.name }}.service"
        content: "{{ lookup('rendered', 'worker.service.j2', template_vars={'item': item}) }}"
"""

RETURN = r"""
_raw: {description: The texts., type: list, elements: str}
"""

from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import generate_ansible_template_vars, trust_as_template


class LookupModule(LookupBase):
    """What Ansible looks for."""

    def run(self, terms, variables=None, template_vars=None, **_):
        """The texts of these templates."""
        return [self._text(name, variables, template_vars or {}) for name in terms]

    def _text(self, name, variables, more):
        path = self.find_file_in_search_path(variables, "templates", name)
        if not path:
            raise AnsibleLookupError(f"There is no template {name}.")
        known = generate_ansible_template_vars(name, fullpath=path) | variables | more
        templar = self._templar.copy_with_new_env(available_variables=known, searchpath=[str(Path(path).parent)])
        text = trust_as_template(self._loader.get_text_file_contents(path))
        return templar.template(text, escape_backslashes=False)
