"""The WSGI application that gunicorn serves."""

import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "producer.settings")

application = get_wsgi_application()
# Gunicorn runs no system checks: without this a wrong configuration would show in the first request, not at the start.
call_command("check")
