"""System checks: what is wrong with this machine shows when the process starts, not when the first result comes in."""

import os

from django.conf import settings
from django.core.checks import Error, register


@register()
def results_file_can_be_written(app_configs, **kwargs):
    """The results file's directory must exist and be ours to write in."""
    directory = settings.RESULTS_FILE.parent
    hint = "Create the directory for the user that runs the producer, or let STATE_DIRECTORY name another."
    if not directory.is_dir():
        return [Error(f"The results file's directory {directory} does not exist.", hint=hint, id="jobs.E001")]
    if not os.access(directory, os.W_OK | os.X_OK):
        return [Error(f"The results file's directory {directory} is not writable.", hint=hint, id="jobs.E002")]
    return []
