"""Ports for servers that tests start, of which many start at once; one server uses ``app.tasks.embedded.free_port``."""

import contextlib
import random
import socket

_PORTS = range(20000, 30000)
"""Outside the ranges from which kernels number connections and Ray its workers: a port from there may be taken
before the server listens on it."""


def free_port() -> int:
    """Return a TCP port that is free on the loopback address now."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
