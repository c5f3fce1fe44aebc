"""What the worker in a thread needs to be quick."""

import pytest
from kombu.transport.memory import Transport


@pytest.fixture(scope="session", autouse=True)
def impatient_workers():
    """A worker waits two seconds for its queue, twice, before it looks whether it should stop. Here, a moment."""
    drain = Transport.drain_events

    def drain_events(self, connection, timeout=None):
        drain(self, connection, timeout=0.02 if timeout == 2 else timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "drain_events", drain_events)
        yield
