"""migrations.py WORD [JSON]: what a project's migrations do to a release that does not know them, as a line of JSON.

Runs in a release, as `quintet-manage --release RELEASE --module - PROJECT WORD <migrations.py`.

    plan         what the release would apply: [{name, breaks, lost}]
    known        the names of the migrations that it brings
    beyond JSON  the same as plan, of what is applied and is not among the names in JSON; and `back`, the arguments of
                 `migrate` that take it away again

`breaks` are the operations after which a release that does not know the migration may fail: those that take away,
rename or narrow what it uses, and those of which nobody can tell (SQL, Python). A change that breaks nothing is done in
two releases: the first only adds, and the next takes away what nobody uses any more. `lost` are the operations that
cannot be taken back.
"""

import json
import sys

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.db.migrations import operations as ops  # noqa: E402
from django.db.migrations.executor import MigrationExecutor  # noqa: E402

# These change nothing that another release would notice.
HARMLESS = {
    "CreateModel", "AddIndex", "AddIndexConcurrently", "RemoveIndex", "RemoveIndexConcurrently", "RenameIndex",
    "RemoveConstraint", "AlterModelOptions", "AlterModelManagers", "AlterModelTableComment", "AlterOrderWithRespectTo",
    "CreateExtension", "AddConstraintNotValid", "CreateCollation",
}  # fmt: skip
# Attributes of a field that the database does not see.
OUTSIDE = {
    "blank", "choices", "default", "editable", "error_messages", "help_text", "limit_choices_to", "on_delete",
    "related_name", "related_query_name", "validators", "verbose_name",
}  # fmt: skip


def is_harmless(operation):
    """Whether it, or what it is a kind of, is among HARMLESS."""
    return bool({kind.__name__ for kind in type(operation).__mro__} & HARMLESS)


def seen_by_the_database(field):
    """What a field's column is made of."""
    _, path, args, kwargs = field.deconstruct()
    return path, list(args), {name: value for name, value in kwargs.items() if name not in OUTSIDE}


def is_wider(old, new):
    """Whether a column takes all that it took, and is otherwise the same."""
    (old_path, old_args, old), (new_path, new_args, new) = seen_by_the_database(old), seen_by_the_database(new)
    if (old_path, old_args) != (new_path, new_args) or old.get("null", False) > new.get("null", False):
        return False
    # Without an end is longer than any.
    lengths = [one.get("max_length") or float("inf") for one in (old, new)]
    rest = [{name: value for name, value in one.items() if name not in ("null", "max_length")} for one in (old, new)]
    return lengths[0] <= lengths[1] and rest[0] == rest[1]


def is_optional(field):
    """Whether a row can be made by who does not know of the field."""
    has_default = getattr(field, "db_default", models.NOT_PROVIDED) is not models.NOT_PROVIDED
    return field.null or field.many_to_many or has_default


def broken(operation, app, state, made):
    """The operations, as sentences, after which a release may fail that does not know them. `made` are new models."""
    if isinstance(operation, ops.SeparateDatabaseAndState):
        for one in operation.database_operations:
            yield from broken(one, app, state, made)
        return
    model = (app, getattr(operation, "model_name_lower", None) or getattr(operation, "name_lower", None))
    if isinstance(operation, ops.CreateModel):
        made.add(model)
    if is_harmless(operation) or model in made:
        return
    if isinstance(operation, ops.AddField) and is_optional(operation.field):
        return
    if isinstance(operation, ops.AlterField):
        found = state.models.get(model)
        if found and is_wider(found.get_field(operation.name), operation.field):
            return
    yield operation.describe()


def judged(migration, state, made):
    """A migration as `plan` shows it; `state` goes on."""
    breaks = []
    for operation in migration.operations:
        breaks += broken(operation, migration.app_label, state, made)
        operation.state_forwards(migration.app_label, state)
    lost = [operation.describe() for operation in migration.operations if not operation.reversible]
    return {"name": f"{migration.app_label}.{migration.name}", "breaks": breaks, "lost": lost}


def judge(executor, keys):
    """These migrations, each after all that it needs."""
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    state = graph.make_state(nodes=[key for key in graph.nodes if key in applied and key not in keys])
    made = set()
    return [judged(graph.nodes[key], state, made) for key in keys]


def plan(executor):
    """What would be applied."""
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"steps": judge(executor, [(migration.app_label, migration.name) for migration, _ in steps])}


def beyond(executor, known):
    """What is applied, and a release with the migrations `known` does not know."""
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    order = [(one.app_label, one.name) for one, _ in executor.migration_plan(graph.leaf_nodes(), clean_start=True)]
    more = [key for key in order if key in applied and list(key) not in known]
    back = []
    for app in dict.fromkeys(app for app, _ in reversed(more)):
        last = next((name for theirs, name in reversed(order) if theirs == app and (app, name) not in more), "zero")
        back.append([app, last])
    return {"steps": judge(executor, more), "back": back}


def main():
    """Answer one question. Without a database nothing is migrated."""
    word, *rest = sys.argv[1:]
    if settings.DATABASES.get("default", {}).get("ENGINE", "").endswith(".dummy"):
        answer = {"steps": [], "known": [], "back": []}
    else:
        executor = MigrationExecutor(connection)
        if word == "plan":
            answer = plan(executor)
        elif word == "known":
            answer = {"known": sorted(executor.loader.disk_migrations)}
        else:
            answer = beyond(executor, json.loads(rest[0]))
    print(json.dumps(answer))


main()
