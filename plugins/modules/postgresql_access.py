#!/usr/bin/python
"""Databases of a PostgreSQL server, and the roles that own them, with psql."""

DOCUMENTATION = r"""
module: postgresql_access
short_description: Databases and the roles that own them
description:
  - Reads the whole state once, compares, and writes only the difference. What is not declared is left alone.
  - Each database is owned by a role of its name, which may log in and nothing more; nobody else may connect to it.
  - The server is given the SCRAM verifier of a password, never the password.
  - Runs as the user C(postgres), over the local socket.
options:
  port: {description: Port of the server., type: int, default: 5432}
  databases:
    description: The databases.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name of the database and of its owner., type: str, required: true}
      password: {description: The owner's password., type: str, required: true}
author: Quintet
"""

EXAMPLES = r"""
- name: Give the application its database
  postgresql_access:
    databases:
      - name: producer
        password: "{{ database_password }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
statements:
  description: The statements that made the difference, without secrets.
  type: list
  returned: always
"""

import base64
import hashlib
import hmac
import json
import os
import unicodedata

from ansible.module_utils.basic import AnsibleModule

STATE = """
SELECT json_build_object(
  'roles', (SELECT json_object_agg(rolname, json_build_object(
     'password', rolpassword, 'login', rolcanlogin,
     'more', rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)) FROM pg_authid),
  'databases', (SELECT json_object_agg(datname, json_build_object(
     'owner', pg_get_userbyid(datdba), 'public', has_database_privilege('public', oid, 'CONNECT'))) FROM pg_database))
"""
ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"


def verifier(password, salt=None, iterations=4096):
    """What PostgreSQL keeps of a password: SCRAM-SHA-256$iterations:salt$stored key:server key."""
    salt = salt or os.urandom(16)
    normal = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", normal, salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def password_matches(password, found):
    """Whether this is the password that a role's verifier was made from. A hash of another kind never matches."""
    if not (found or "").startswith("SCRAM-SHA-256$"):
        return False
    iterations, salt = found.split("$")[1].split(":")
    return hmac.compare_digest(found, verifier(password, base64.b64decode(salt), int(iterations)))


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def difference(state, wanted):
    """The statements, as (statement, secret or None), that lead from the state to what is wanted.

    A secret completes its statement. Each is a literal without a quote in it.
    """
    statements = []
    for database in wanted:
        name = identifier(database["name"])
        role, found = state["roles"].get(database["name"]), state["databases"].get(database["name"])
        if role is None:
            statements.append((f"CREATE ROLE {name} {ATTRIBUTES} PASSWORD", verifier(database["password"])))
        else:
            if role["more"] or not role["login"]:
                statements.append((f"ALTER ROLE {name} {ATTRIBUTES}", None))
            if not password_matches(database["password"], role["password"]):
                statements.append((f"ALTER ROLE {name} PASSWORD", verifier(database["password"])))
        if found is None:
            statements.append((f"CREATE DATABASE {name} OWNER {name} ENCODING 'UTF8' TEMPLATE template0", None))
        elif found["owner"] != database["name"]:
            statements.append((f"ALTER DATABASE {name} OWNER TO {name}", None))
        if found is None or found["public"]:
            statements.append((f"REVOKE ALL ON DATABASE {name} FROM PUBLIC", None))
    return statements


def psql(module, statements):
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
    code, out, err = module.run_command([*command, "--port", str(module.params["port"]), "postgres"], data=statements)
    if code:
        module.fail_json(msg=f"psql: {err.strip()}")
    return out


def main():
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "port": {"type": "int", "default": 5432},
            "databases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
        },
    )
    statements = difference(json.loads(psql(module, STATE)), module.params["databases"])
    shown = [statement for statement, _ in statements]
    if statements and not module.check_mode:
        psql(module, "".join(f"{text} '{secret}';\n" if secret else f"{text};\n" for text, secret in statements))
    diff = {"before": "", "after": "\n".join(shown) + "\n"} if shown else {}
    module.exit_json(changed=bool(statements), statements=shown, diff=diff)


if __name__ == "__main__":
    main()
