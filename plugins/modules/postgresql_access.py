#!/usr/bin/python
"""Databases of a PostgreSQL server, who owns them and who works in them, with psql."""

DOCUMENTATION = r"""
module: postgresql_access
short_description: Databases, the roles that own them, and those that work in them
description:
  - Reads the whole state once, compares, and writes only the difference. What is not declared is left alone.
  - A role may log in, and nothing more. The owner of a database may do all in it. A user reads and writes what is in
    the tables that the owner has made or will make, and can make, change and drop none. Nobody else may connect to it.
  - When a database gets another owner, all that its last owner has in it goes to the new one.
  - The server is given the SCRAM verifier of a password, never the password.
  - On a server that follows another one nothing is done: it gets all of this from there.
  - Runs as the user C(postgres), over the local socket.
options:
  port: {description: Port of the server., type: int, default: 5432}
  roles:
    description: The roles.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      password: {description: Its password., type: str, required: true}
      member_of: {description: Roles of PostgreSQL's own whose rights it has., type: list, elements: str, default: []}
      acts_as: {description: The role that it becomes at login; it is a second name with its own password., type: str}
      state: {description: Whether it is there., type: str, choices: [present, absent], default: present}
  databases:
    description: The databases.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      owner: {description: One of the roles., type: str, required: true}
      user: {description: "One of the roles, which may be the owner.", type: str, required: true}
author: Quintet
"""

EXAMPLES = r"""
- name: Give the application its database
  postgresql_access:
    roles:
      - {name: producer_owner, password: "{{ owner_password }}"}
      - {name: producer, password: "{{ password }}"}
    databases:
      - {name: producer, owner: producer_owner, user: producer}
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
  'follows', pg_is_in_recovery(),
  'roles', (SELECT json_object_agg(rolname, json_build_object(
     'password', rolpassword, 'login', rolcanlogin,
     'more', rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls,
     'member_of', ARRAY(SELECT pg_get_userbyid(roleid) FROM pg_auth_members WHERE member = pg_authid.oid),
     'settings', (SELECT setconfig FROM pg_db_role_setting WHERE setrole = pg_authid.oid AND setdatabase = 0)))
   FROM pg_authid),
  'databases', (SELECT json_object_agg(datname, json_build_object(
     'owner', pg_get_userbyid(datdba), 'public', has_database_privilege('public', oid, 'CONNECT'),
     'users', ARRAY(SELECT pg_get_userbyid(grantee) FROM aclexplode(datacl) WHERE privilege_type = 'CONNECT')))
   FROM pg_database));
"""
# Of one database: its schemas, and whether its user has all rights that it should have there, and none more.
SCHEMAS = "SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
GRANTED = """
  (SELECT bool_and(has_schema_privilege(%(user)s, oid, 'USAGE') AND NOT has_schema_privilege(%(user)s, oid, 'CREATE'))
   FROM own)
  AND NOT EXISTS (SELECT FROM pg_class WHERE relowner = (%(owner)s)::regrole AND (
    relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT (
      has_table_privilege(%(user)s, oid, 'SELECT') AND has_table_privilege(%(user)s, oid, 'INSERT')
      AND has_table_privilege(%(user)s, oid, 'UPDATE') AND has_table_privilege(%(user)s, oid, 'DELETE'))
    OR relkind = 'S' AND NOT (
      has_sequence_privilege(%(user)s, oid, 'SELECT') AND has_sequence_privilege(%(user)s, oid, 'USAGE'))))
  AND '{S:SELECT,S:USAGE,n:USAGE,r:DELETE,r:INSERT,r:SELECT,r:UPDATE}' = ARRAY(
    SELECT defaclobjtype::text || ':' || privilege_type COLLATE "C" FROM pg_default_acl, aclexplode(defaclacl)
    WHERE defaclrole = (%(owner)s)::regrole AND defaclnamespace = 0 AND grantee = (%(user)s)::regrole ORDER BY 1)
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


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def grants(owner, user, schemas):
    """The statements, in a database, that let its user work with what its owner has made or will make there."""
    owner, user, schemas = identifier(owner), identifier(user), ", ".join(map(identifier, schemas))
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT"
    return [
        f"REVOKE CREATE ON SCHEMA {schemas} FROM PUBLIC, {user}",
        f"GRANT USAGE ON SCHEMA {schemas} TO {user}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schemas} TO {user}",
        f"GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA {schemas} TO {user}",
        f"{later} USAGE ON SCHEMAS TO {user}",
        f"{later} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {user}",
        f"{later} SELECT, USAGE ON SEQUENCES TO {user}",
    ]


def role_difference(found, wanted):
    """The statements for one role."""
    name, acts_as = identifier(wanted["name"]), wanted.get("acts_as")
    if wanted.get("state") == "absent":
        if found:
            yield f"DROP ROLE {name}", None
        return
    if found is None:
        yield f"CREATE ROLE {name} {ATTRIBUTES} PASSWORD", verifier(wanted["password"])
        found = {"member_of": [], "settings": None}
    else:
        if found["more"] or not found["login"]:
            yield f"ALTER ROLE {name} {ATTRIBUTES}", None
        if not password_matches(wanted["password"], found["password"]):
            yield f"ALTER ROLE {name} PASSWORD", verifier(wanted["password"])
    for role in wanted["member_of"] + ([acts_as] if acts_as else []):
        if role not in found["member_of"]:
            yield f"GRANT {identifier(role)} TO {name}", None
    if acts_as and f"role={acts_as}" not in (found["settings"] or []):
        yield f"ALTER ROLE {name} SET role TO {identifier(acts_as)}", None


def database_difference(found, inside, wanted):
    """The statements for one database: what is known of it from outside, and from inside."""
    name, owner, user = (identifier(wanted[key]) for key in ("name", "owner", "user"))
    if found is None:
        yield f"CREATE DATABASE {name} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0"
        found = {"owner": wanted["owner"], "public": True, "users": []}
        inside = {"schemas": ["public"], "granted": False}
    moved, apart, statements = found["owner"] != wanted["owner"], wanted["owner"] != wanted["user"], []
    if moved:
        statements.append(f"ALTER DATABASE {name} OWNER TO {owner}")
        # What the system's own user has is the system's.
        if found["owner"] != "postgres":
            statements.append(f"REASSIGN OWNED BY {identifier(found['owner'])} TO {owner}")
    if found["public"]:
        statements.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    # A new owner has got the rights of the last one, who may be the user.
    if apart and (moved or wanted["user"] not in found["users"]):
        statements.append(f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {user}")
    if apart and (moved or not inside["granted"]):
        statements += grants(wanted["owner"], wanted["user"], inside["schemas"])
    if statements:
        # All or nothing: who works in it meanwhile notices nothing, and a run that was killed begins anew.
        yield from (f"\\connect {name}", "BEGIN", *statements, "COMMIT")


def difference(state, inside, roles, databases):
    """The statements, as (statement, secret or None), that lead from the state to what is wanted.

    `inside` is what is known of each database, by its name, that is there and has a user. A secret completes its
    statement. Each is a literal without a quote in it.
    """
    statements = []
    for role in roles:
        statements += role_difference(state["roles"].get(role["name"]), role)
    for database in databases:
        found = state["databases"].get(database["name"])
        statements += [(text, None) for text in database_difference(found, inside.get(database["name"]), database)]
    return statements


def questions(state, databases):
    """What psql is asked so that it says, a line each, what is in the databases that are there and have a user."""
    lines = []
    for wanted in databases:
        if wanted["name"] in state["databases"] and wanted["owner"] != wanted["user"]:
            known = {wanted["owner"], wanted["user"]} <= state["roles"].keys()
            granted = GRANTED % {key: literal(wanted[key]) for key in ("owner", "user")} if known else "false"
            lines += [
                f"\\connect {identifier(wanted['name'])}",
                f"WITH own AS ({SCHEMAS}) SELECT json_build_object('name', current_database(), 'granted', {granted}, "
                "'schemas', (SELECT json_agg(nspname ORDER BY nspname) FROM own));",
            ]
    return "\n".join(lines)


def complete(statement, secret):
    """A statement as psql wants it. Its own commands end with their line."""
    return (
        f"{statement}\n"
        if statement.startswith("\\")
        else f"{statement} '{secret}';\n"
        if secret
        else f"{statement};\n"
    )


def psql(module, statements):
    command = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
    code, out, err = module.run_command([*command, "--port", str(module.params["port"]), "postgres"], data=statements)
    if code:
        module.fail_json(msg=f"psql: {err.strip()}")
    return out


def main():
    # Ansible would log the call on the host, with what is secret in a longer text, and overrules its own `no_log`.
    AnsibleModule.log = lambda *_, **__: None
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "port": {"type": "int", "default": 5432},
            "roles": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                    "member_of": {"type": "list", "elements": "str", "default": []},
                    "acts_as": {"type": "str"},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
            "databases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "owner": {"type": "str", "required": True},
                    "user": {"type": "str", "required": True},
                },
            },
        },
    )
    wanted = module.params["databases"]
    state = json.loads(psql(module, STATE))
    if state["follows"]:
        module.exit_json(changed=False, statements=[])
    asked = questions(state, wanted)
    inside = [json.loads(line) for line in psql(module, asked).splitlines()] if asked else []
    statements = difference(state, {found["name"]: found for found in inside}, module.params["roles"], wanted)
    shown = [statement for statement, _ in statements]
    if statements and not module.check_mode:
        psql(module, "".join(complete(text, secret) for text, secret in statements))
    diff = {"before": "", "after": "\n".join(shown) + "\n"} if shown else {}
    module.exit_json(changed=bool(statements), statements=shown, diff=diff)


if __name__ == "__main__":
    main()
