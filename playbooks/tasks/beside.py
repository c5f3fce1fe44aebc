"""A PostgreSQL beside the live one, from its backups, for a while.

Runs as postgres in a systemd unit with a /var/tmp of its own: when that ends, however it ends, nothing is left.

beside.py STANZA VERSION PORT TO drill: counts the rows of every table in both, and looks at each page and index.
beside.py STANZA VERSION PORT TO database NAME NEW OWNER: copies a database into the live one, as NEW.

Prints what a person wants to know, a line each. Exits with 1 where something is wrong.
"""

import json
import os
import shutil
import subprocess
import sys
import time

PLACE = "/var/tmp/beside"
# A table may have changed meanwhile: so many rows, or this part of them.
ROWS, PART = 100, 0.05
# How long the log may take into the repository, before what is there has to do.
ARCHIVE_SECONDS = 60
COUNTS = """
SELECT format('SELECT %L, count(*) FROM %I.%I', schemaname || '.' || tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
\\gexec
"""
MINIMAL = {
    "archive_mode": "off",
    "autovacuum": "off",
    "fsync": "off",
    # Nobody comes in before all is read, and so it need not be as large as the one that wrote it.
    "hot_standby": "off",
    "listen_addresses": "",
    "shared_buffers": "64MB",
    "unix_socket_directories": PLACE,
}


def run(*command, **more):
    """What a command says."""
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Server:
    """A server of PostgreSQL, by its socket's directory and its port."""

    def __init__(self, place, port):
        self.words = ["--host", place, "--port", port]

    def ask(self, sql, database="postgres"):
        """The rows of an answer, as lists of texts."""
        words = ["psql", *self.words, "--no-psqlrc", "-qAtF", "\t", "-v", "ON_ERROR_STOP=1", "-f", "-", database]
        return [line.split("\t") for line in run(*words, input=sql).splitlines()]

    def databases(self):
        """The databases that are somebody's."""
        return [name for [name] in self.ask("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")]

    def counts(self):
        """The rows of each table, by `database schema.table`."""
        return {
            f"{database} {table}": int(count)
            for database in self.databases()
            for table, count in self.ask(COUNTS, database)
        }


def hand_over(live):
    """Commit something, and have the log until then taken into the repository, if it is. Gives the time before that."""
    [[since], _] = live.ask("SELECT now(); SELECT pg_current_xact_id()")
    [[file]] = live.ask("SELECT pg_walfile_name(pg_switch_wal())")
    taken = f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{file}'"
    deadline = time.monotonic() + ARCHIVE_SECONDS
    while not live.ask(taken) and time.monotonic() < deadline:
        time.sleep(0.2)
    return since


def restore(stanza, version, port, to):
    """Restore into PLACE, and read all of the log. Gives the server, its last transaction's time, and the backup."""
    pgbackrest = ["pgbackrest", f"--stanza={stanza}", "--lock-path=/tmp"]
    backups = json.loads(run(*pgbackrest, "--output=json", "info"))[0]["backup"]
    if not backups:
        sys.exit("There is no backup yet; the runbook `backup` makes one.")
    needed, free = backups[-1]["info"]["size"] * 1.2 + 2**28, shutil.disk_usage("/var/tmp").free
    if free < needed:
        sys.exit(f"/var/tmp has {free / 2**30:.1f} GiB free, and {needed / 2**30:.1f} are needed.")
    os.mkdir(PLACE, mode=0o700)
    target = [] if to == "latest" else ["--type=time", f"--target={to}", "--target-action=promote"]
    run(*pgbackrest, f"--pg1-path={PLACE}", "--archive-mode=off", *target, "restore")
    with open(f"{PLACE}/pg_hba.conf", "w") as file:
        file.write("local all all trust\n")
    with open(f"{PLACE}/postgresql.conf", "w") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in MINIMAL.items())
    words = [f"/usr/lib/postgresql/{version}/bin/postgres", "-D", PLACE, "-p", port]
    with open(f"{PLACE}/log", "w") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    ready = ["pg_isready", "--quiet", "--host", PLACE, "--port", port]
    while subprocess.run(ready).returncode:
        if process.poll() is not None:
            with open(f"{PLACE}/log") as log:
                sys.exit("PostgreSQL does not start beside the live one:\n" + "".join(log.readlines()[-10:]))
        time.sleep(0.2)
    server = Server(PLACE, port)
    [[last]] = server.ask("SELECT coalesce(pg_last_xact_replay_timestamp(), 'epoch')")
    return server, last, backups[-1]["label"]


def misfits(before, restored, after):
    """What is wrong with the counts of what was restored, between two counts of the live databases; a sentence each."""
    for name in sorted(before.keys() & after.keys()):
        low, high = sorted((before[name], after[name]))
        if name not in restored:
            yield f"{name} is not in the backup"
        elif not low - max(ROWS, low * PART) <= restored[name] <= high + max(ROWS, high * PART):
            yield f"{name} has {restored[name]} rows in the backup, and {low} to {high} live"
        elif low and not restored[name]:
            yield f"{name} is empty in the backup, and has {low} rows"


def drill(live, stanza, version, port, to):
    """Restore what is newest, and compare."""
    began = time.monotonic()
    before = live.counts()
    since = hand_over(live)
    server, last, label = restore(stanza, version, port, to)
    seconds = time.monotonic() - began
    restored, after = server.counts(), live.counts()
    wrong = list(misfits(before, restored, after))
    [[behind]] = live.ask(f"SELECT '{last}'::timestamptz < '{since}'::timestamptz")
    if behind == "t":
        wrong.append(f"it ends with the transaction of {last}, before {since}, when the drill began")
    check = f"/usr/lib/postgresql/{version}/bin/pg_amcheck"
    run(check, *server.words, "--all", "--install-missing", "--heapallindexed")
    print(f"Restored {label} and the log since, in {seconds:.0f} s, up to the transaction of {last}.")
    for database in server.databases():
        own = {name: count for name, count in restored.items() if name.startswith(f"{database} ")}
        rows, live_rows = sum(own.values()), sum(after.get(name, 0) for name in own)
        print(f"{database}: {len(own)} tables, {rows} rows; live {live_rows}")
    if wrong:
        sys.exit("\n".join(["Wrong:", *wrong]))
    print("Each page and each index was read, and is sound.")


def copy(live, stanza, version, port, to, name, new, owner):
    """A database of the backups, as a new one of the live server."""
    if new in live.databases():
        sys.exit(f"There is a database {new} already. Rename or drop it, or say -e restore_as=...")
    hand_over(live)
    server, last, _ = restore(stanza, version, port, to)
    if name not in server.databases():
        sys.exit(f"There was no database {name} then.")
    run("createdb", *live.words, "--owner", owner, "--template", "template0", new)
    dump = subprocess.Popen(["pg_dump", *server.words, name], stdout=subprocess.PIPE)
    load = ["psql", *live.words, "--no-psqlrc", "--quiet", "--single-transaction", "-v", "ON_ERROR_STOP=1", new]
    loaded = subprocess.run(load, stdin=dump.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if dump.wait() or loaded.returncode:
        run("dropdb", *live.words, new)
        sys.exit(f"{name} could not be copied: {loaded.stderr.strip()}")
    counts = {table: count for table, count in live.counts().items() if table.startswith(f"{new} ")}
    print(f"{new} is {name} up to the transaction of {last}: {len(counts)} tables, {sum(counts.values())} rows.")


def main():
    """As the docstring above says."""
    stanza, version, port, to, what, *more = sys.argv[1:]
    {"drill": drill, "database": copy}[what](Server("/run/postgresql", port), stanza, version, port, to, *more)


if __name__ == "__main__":
    main()
