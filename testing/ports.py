"""Ports for what a test starts."""

import contextlib
import random
import socket

_PORTS = range(20000, 30000)
"""Not of those that kernels give to connections, nor of those that Ray gives to its workers: a port from there may be
taken before the program that is to listen on it has begun to."""


def free_port() -> int:
    """Return a TCP port that is free on the loopback address now."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
