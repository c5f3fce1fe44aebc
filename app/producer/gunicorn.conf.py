"""Gunicorn, behind nginx: gunicorn --config gunicorn.conf.py producer.wsgi:application

It binds to nothing here: systemd opens the socket and hands it over.
"""

import os
import threading
from pathlib import Path

worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY") or min(2 * (os.cpu_count() or 1), 4))
# So many of them may wait for results at the same time as API_WAITERS says; the others serve.
threads = 8
# Loaded once, before the workers part: they start sooner and share what they do not change.
preload_app = True

timeout = 30
graceful_timeout = 30
keepalive = 75  # longer than nginx keeps an idle connection, so that it is never ours that closes under a request

# A worker's sign of life is a file's time stamp: on a disk that hangs, a healthy worker would be killed.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# Nobody uses gunicorn's own remote control, and a hardened unit has no home directory to put its socket into.
control_socket_disable = True

accesslog = None  # nginx keeps it
errorlog = "-"


def post_worker_init(worker):
    """Let the status page of every web host know of this one."""
    from jobs.status import seen  # not before Django is ready

    threading.Thread(target=seen.beat, name="beat", daemon=True).start()
