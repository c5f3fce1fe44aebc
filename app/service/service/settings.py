"""Settings of the service. Everything that differs between machines comes from the environment.

Each variable can also be given as a file: `SECRET_KEY_FILE=/run/secrets/key` stands for `SECRET_KEY`.
"""

import environ
from environ.fileaware_mapping import FileAwareMapping


class Variables(FileAwareMapping):
    """The environment, taken literally: a file's last newline and a leading dollar have no meaning of their own."""

    def __getitem__(self, key):
        """Escape each dollar; `Env.escape_proxy` undoes it, where a bare one would name another variable."""
        return super().__getitem__(key).rstrip("\n").replace("$", r"\$")


class Env(environ.Env):
    """Reads variables strictly: one that is missing is an error that names it."""

    ENVIRON = Variables()


env = Env()
env.escape_proxy = True

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY")
# Earlier keys, with commas: what they signed is valid as long as they stand here.
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])

INSTALLED_APPS = ["joining"]

# Nobody asks the service for a page: `check --deploy` need not ask for what protects pages.
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003", "security.W020"]

# How long a task waits, in its worker, for a PostgreSQL that is away, and for a RabbitMQ that does not take its report.
# Then its message is given back. RabbitMQ parks a message that was given back more often than its policy permits.
PATIENCE_SECONDS = env.float("PATIENCE_SECONDS", default=240)
REPORT_SECONDS = env.float("REPORT_SECONDS", default=30)

# PostgreSQL. Each process of the worker keeps its connection; joining.once replaces one that broke.

DATABASES = {"default": env.db_url("DATABASE_URL")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # Nothing may wait for ever: not a connection, not a query, not a lock, not a packet's acknowledgement. A task waits
    # for its own duplicate that runs elsewhere; the transaction of a task lasts as long as the task. PostgreSQL notices
    # within a minute that a worker's host is gone, and then lets go of that one's locks.
    DATABASES["default"]["OPTIONS"] = {
        "application_name": "service",
        "connect_timeout": 3,
        "tcp_user_timeout": 5000,
        "options": "-c lock_timeout=120s -c statement_timeout=150s -c idle_in_transaction_session_timeout=660s"
        " -c client_connection_check_interval=2s"
        " -c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
    } | DATABASES["default"].get("OPTIONS", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# RabbitMQ. Every producer must declare the queue exactly as we do (name, type, exchange): whoever comes second with
# another declaration is refused with PRECONDITION_FAILED.

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL")
CELERY_TASK_DEFAULT_QUEUE = "service"
CELERY_TASK_DEFAULT_QUEUE_TYPE = "quorum"
CELERY_TASK_DEFAULT_EXCHANGE_TYPE = "topic"  # a direct exchange could not delay tasks on quorum queues
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a misspelt queue is an error, not a queue that nobody fills

# A worker waits for its broker for ever, however long that is away; the default gives up after 100 attempts. There is
# no read_timeout here: a consumer's connection is meant to be silent while there is nothing to do, and a broker that
# hangs is what heartbeats are for.
CELERY_BROKER_CONNECTION_TIMEOUT = 4
CELERY_BROKER_CONNECTION_RETRY = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 5
CELERY_BROKER_HEARTBEAT = 10
CELERY_BROKER_TRANSPORT_OPTIONS = {"confirm_publish": True, "write_timeout": 10}
CELERY_WORKER_CONSUMER = "service.worker:Consumer"

# A task is acknowledged when it is done and reported, so that it outlives its worker. It may be delivered twice, and
# takes effect once: see joining.once. One at a time, so that a task that kills its worker takes no neighbour with it.
# A task that fails is done; one that is killed by its time limit is parked (service.worker).
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_ACKS_ON_FAILURE = True
CELERY_TASK_ACKS_ON_TIMEOUT = False
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True

# Less than RabbitMQ's consumer_timeout, after which it would take the task away from us.
CELERY_TASK_TIME_LIMIT = 600
CELERY_TASK_SOFT_TIME_LIMIT = 540

# SIGTERM lets the running tasks end, however long they take, and then stops the worker. SIGQUIT gives them this long,
# and always takes this long while there is one; what has not ended then is given back.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = env.float("SOFT_SHUTDOWN_SECONDS", default=60)

CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 300_000  # KiB
CELERY_WORKER_PROC_ALIVE_TIMEOUT = 20  # 4 s, the default, is too short for a loaded host with few cores
CELERY_DB_REUSE_MAX = 1_000_000  # or Celery closes the connection to PostgreSQL before and after each task

# Redis: results while they are fresh (service.results). One short try to store one.

CELERY_RESULT_BACKEND = env.str("CELERY_RESULT_BACKEND")
CELERY_RESULT_EXTENDED = True  # with the worker's name in it
CELERY_RESULT_EXPIRES = 24 * 3600
CELERY_RESULT_BACKEND_ALWAYS_RETRY = False
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"retry_policy": {"max_retries": 0}}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 1
CELERY_REDIS_SOCKET_TIMEOUT = 2
CELERY_REDIS_SOCKET_KEEPALIVE = True
CELERY_REDIS_BACKEND_HEALTH_CHECK_INTERVAL = 15

CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = CELERY_RESULT_ACCEPT_CONTENT = ["json"]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "service.logs.Formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},
        "multiprocessing": {"handlers": ["stderr"], "propagate": False},  # Celery's pool: it never propagates
    },
}
