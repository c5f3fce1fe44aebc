"""Settings of the producer. Everything that differs between machines comes from the environment.

Each variable can also be given as a file: `SECRET_KEY_FILE=/run/secrets/key` stands for `SECRET_KEY`.
"""

import re
from datetime import timedelta
from pathlib import Path

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping
from kombu import Exchange, Queue
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


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

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY")
# Earlier keys, with commas: what they signed, such as sessions, is valid as long as they stand here.
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# How long a form post waits for its result before it shows the job's own page, which goes on waiting.
RESULT_WAIT_SECONDS = env.float("RESULT_WAIT_SECONDS", default=1.0)
# How many requests a client may send to the API each minute; 0 sets no limit.
API_REQUESTS_PER_MINUTE = env.int("API_REQUESTS_PER_MINUTE", default=6000)
# How many threads of one process may wait for results at the same time. The others answer at once.
API_WAITERS = env.int("API_WAITERS", default=6)
# Where the admin site is. Only at its usual place do pages link to it.
ADMIN_PATH = env.str("ADMIN_PATH", default="admin/").strip("/") + "/"
if not re.fullmatch(r"([A-Za-z0-9._~-]+/)+", ADMIN_PATH):
    raise ImproperlyConfigured(f"ADMIN_PATH must be a path such as admin/, not {ADMIN_PATH!r}")
# systemd's StateDirectory= sets this variable.
RESULTS_FILE = Path(env.str("STATE_DIRECTORY", default=str(BASE_DIR / "state"))) / "results.txt"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "axes",
    "csp",
    "jobs",
    "ninja",  # for the static files of its documentation page
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "jobs.api.problems.ProblemMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "jobs.middleware.UnavailableMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "producer.urls"
WSGI_APPLICATION = "producer.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# PostgreSQL: the truth.

DATABASES = {"default": env.db_url("DATABASE_URL") | {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # Nothing may wait for ever: not a connection, not a query, not a lock, not a packet's acknowledgement.
    DATABASES["default"]["OPTIONS"] = {
        "application_name": "producer",
        "connect_timeout": 3,
        "tcp_user_timeout": 5000,
        "options": "-c statement_timeout=10s -c lock_timeout=3s -c idle_in_transaction_session_timeout=30s",
    } | DATABASES["default"].get("OPTIONS", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis: what may be lost. Hence IGNORE_EXCEPTIONS: the page works without it, only slower, and the timeouts bound how
# much slower. Only a dropped connection is worth a second attempt. An absent Redis shows in /healthz, not in the log:
# django-redis would write a traceback for each command of each request.

CACHES = {"default": env.cache_url("CACHE_URL", backend="django_redis.cache.RedisCache")}
CACHES["default"]["OPTIONS"] = {
    "IGNORE_EXCEPTIONS": True,
    "SOCKET_CONNECT_TIMEOUT": 1,
    "SOCKET_TIMEOUT": 1,
    "CONNECTION_POOL_KWARGS": {"retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))},
} | CACHES["default"].get("OPTIONS", {})

# Read from Redis, kept in PostgreSQL: a visitor's session survives the loss of the cache.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# RabbitMQ. Who declares a queue second, with another declaration, is refused with PRECONDITION_FAILED: the service
# declares its queue exactly as we do. What a request accepts goes through the outbox (jobs.relay), so that no request
# ever waits for RabbitMQ. Each step that the relay takes is bounded: see jobs.broker.

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL")
CELERY_TASK_DEFAULT_QUEUE = "service"
CELERY_TASK_DEFAULT_QUEUE_TYPE = "quorum"
CELERY_TASK_DEFAULT_EXCHANGE_TYPE = "topic"  # a direct exchange could not delay tasks on quorum queues
CELERY_TASK_QUEUES = [
    Queue(name, Exchange(name, type="topic"), name, queue_arguments={"x-queue-type": "quorum"})
    for name in ("service", "results")
]
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a misspelt queue is an error, not a queue that nobody reads
CELERY_TASK_ROUTES = {
    "adding_task": {"queue": "service"},
    "add": {"queue": "service"},
    "job_ended": {"queue": "results"},
}
CELERY_BROKER_CONNECTION_TIMEOUT = 4
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 5
# No read_timeout: a consumer's connection is silent while there is nothing to do, and heartbeats are for a broker that
# hangs.
CELERY_BROKER_TRANSPORT_OPTIONS = {"confirm_publish": True, "write_timeout": 10}
CELERY_TASK_PUBLISH_RETRY = False

# The worker of the queue `results`. It waits for its broker for ever, however long that is away. A task is
# acknowledged when it is done, so that it outlives its worker; one that fails goes to the dead letters.
CELERY_BROKER_CONNECTION_RETRY = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_HEARTBEAT = 10
CELERY_WORKER_CONSUMER = "producer.heartbeat:Consumer"
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_ACKS_ON_FAILURE = False
CELERY_TASK_ACKS_ON_TIMEOUT = False
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 600  # less than RabbitMQ's consumer_timeout, after which it would take the task away from us
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_WORKER_PREFETCH_MULTIPLIER = 100  # for one process: the most reports that it stores at once (jobs.tasks)
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
# With REMAP_SIGTERM=SIGQUIT in the environment, the time that running tasks have before they are given back.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 60
CELERY_WORKER_MAX_TASKS_PER_CHILD = 10_000
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 300_000  # KiB
CELERY_WORKER_PROC_ALIVE_TIMEOUT = 20  # 4 s, the default, is too short for a loaded host with few cores
CELERY_DB_REUSE_MAX = 1_000_000  # or Celery closes the connection to PostgreSQL before and after each task

# How often the relay looks for jobs that nobody seems to have, and after what time, doubled with each time, it sends
# one again. A second message does no harm, since the service does a job once.
SWEEP_SECONDS = env.float("SWEEP_SECONDS", default=30)
RESEND_SECONDS = env.float("RESEND_SECONDS", default=300)

# Redis holds results while they are fresh: for a look, not for keeps.

CELERY_RESULT_BACKEND = env.str("CELERY_RESULT_BACKEND")
CELERY_RESULT_BACKEND_THREAD_SAFE = True  # all threads of a process share one pool of connections
CELERY_RESULT_EXTENDED = True
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 1
CELERY_REDIS_SOCKET_TIMEOUT = 1

CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = CELERY_RESULT_ACCEPT_CONTENT = ["json"]

# Static files carry their digest in their name, so that a browser may keep them for ever.

STATIC_URL = "static/"
STATIC_ROOT = env.str("STATIC_ROOT", default=str(BASE_DIR / "static"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}

# Security. Until HTTPS is on, cookies must travel over plain HTTP. X-Forwarded-For and -Host are not trusted at all.

HTTPS = env.bool("HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
# Off where somebody in front redirects who does not say by which protocol a request came: ours would never end. Deploys
# and load balancers ask for health by plain HTTP.
SECURE_SSL_REDIRECT = HTTPS and env.bool("SSL_REDIRECT", default=True)
SECURE_REDIRECT_EXEMPT = [r"^healthz(/|$)"]
SECURE_HSTS_SECONDS = 2 * 365 * 24 * 3600 if HTTPS else 0

# The first is for new passwords, and for old ones from their next login on.
PASSWORD_HASHERS = ["jobs.login.Argon2", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Who guesses the password of somebody is not heard for a while: nobody who uses this name from this address is. So no
# stranger locks anybody out. PostgreSQL counts for all web hosts together, with or without Redis.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_USERNAME_CALLABLE = "jobs.login.username"
AXES_CLIENT_IP_CALLABLE = "jobs.login.address"
AXES_LOCKOUT_CALLABLE = "jobs.login.refuse"
AXES_SENSITIVE_PARAMETERS = ["username", "csrfmiddlewaretoken"]  # people type passwords where their name belongs

# All that a page needs comes from this site, and nothing of it stands in the page: what is smuggled in does not run.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

# What `check --deploy` need not ask for: a promise for every name below ours, which is for the site's front door (W005,
# W021); and without HTTPS, as in a demonstration on loopback, what would lock everybody out: HSTS, the redirect,
# cookies that travel over HTTPS only.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
if not HTTPS:
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W008", "security.W012", "security.W016"]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

# One JSON object a line, with the id of the job where one is known.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "producer.logs.Formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django": {"handlers": [], "level": "INFO"}, "axes": {"level": "WARNING"}},
}
