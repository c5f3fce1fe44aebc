"""Gunicorn behind nginx, for a project that has no gunicorn.conf.py of its own.

Read from the environment: WEB_INTERFACE (asgi, or wsgi, which is the default), SCRIPT_NAME (its path),
WEB_CONCURRENCY (processes) and WEB_THREADS (threads of each). Without WEB_CONCURRENCY the host's processors and the
memory that the service may use decide. It binds to nothing here: systemd opens the socket and hands it over. The
command line wins over all of it.
"""

import os
from pathlib import Path

# What a process of a usual project takes, with some air.
PROCESS_MB = 128
MOST_PROCESSES = 8


def memory_mb(cgroup="/proc/self/cgroup", tree="/sys/fs/cgroup", meminfo="/proc/meminfo"):
    """What this service may use: the least of the host's memory and of the limits of the groups that it is in."""
    limits = []
    try:
        limits += [int(Path(meminfo).read_text().split()[1]) // 1024]
        path = Path(tree, Path(cgroup).read_text().rpartition("::/")[2].strip())
    except (OSError, ValueError, IndexError):
        path = Path(tree)
    for group in (path, *path.parents):
        for name in ("memory.high", "memory.max"):
            try:
                limits += [int((group / name).read_text()) // 2**20]
            except (OSError, ValueError):  # none there, or "max"
                continue
        if group == Path(tree):
            break
    return min(limits, default=512)


def processes(processors, memory):
    """As many as keep the processors busy, and as the memory holds."""
    return max(1, min(2 * processors, memory // PROCESS_MB, MOST_PROCESSES))


def asgi():
    """The class of a worker for ASGI, which is told its prefix as gunicorn tells its own workers."""
    from uvicorn_worker import UvicornWorker

    class Worker(UvicornWorker):
        CONFIG_KWARGS = UvicornWorker.CONFIG_KWARGS | {"root_path": os.environ.get("SCRIPT_NAME", "")}

    return Worker


worker_class = asgi() if os.environ.get("WEB_INTERFACE") == "asgi" else "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY") or processes(len(os.sched_getaffinity(0)), memory_mb()))
threads = int(os.environ.get("WEB_THREADS") or 4)
# Not before the workers part: a project may open at import what two processes must not share.
preload_app = False
# What leaks is given back, and not by all processes at the same time.
max_requests = 2000
max_requests_jitter = 400

graceful_timeout = 30
keepalive = 75  # longer than nginx keeps an idle connection, so that it is never ours that closes under a request

# The socket is nginx's alone, and nginx sets these headers itself whatever the client says.
forwarded_allow_ips = "*"

# A worker's sign of life is a file's time stamp: on a disk that hangs, a healthy worker would be killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None
# A hardened unit has no home directory to put the socket of gunicorn's own remote control into.
control_socket_disable = True

accesslog = None  # nginx keeps it
errorlog = "-"
