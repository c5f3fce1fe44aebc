"""What happened to a job so far, for people."""

WAITS_FOR = {"kept": "for RabbitMQ to take it", "delayed": "as long as you asked", "sent": "for a worker"}


def of(job):
    """The steps that a job took, each with what it took to get there. A waiting job says by its `stage` for what."""
    steps = [_step("Accepted", "done", job.created_at, words="kept in PostgreSQL")]
    asked = f", {job.delay_seconds} s of it as asked" if job.delay_seconds else ""
    if job.attempt > 1:
        steps.append(_step(f"Sent again, attempt {job.attempt}", "done", job.due_at))
        asked = ""
    if job.started_at:
        title = f"Started by {job.worker}" if job.worker else "Started"
        seconds = (job.started_at - steps[-1]["when"]).total_seconds()
        steps.append(_step(title, "done", job.started_at, seconds, f"until a worker had it{asked}"))
    if job.waiting:
        steps.append(_step("Waiting", "waiting", words=WAITS_FOR[job.stage]))
    else:
        seconds = (job.finished_at - steps[-1]["when"]).total_seconds()
        words = "of work" if job.started_at else "in all"
        steps.append(_step(job.get_state_display(), job.state, job.finished_at, seconds, words))
    return steps


def _step(title, state, when=None, seconds=None, words=""):
    return {"title": title, "state": state, "when": when, "seconds": seconds, "words": words}
