"""The embedded server of local runs: it comes back with its data, and two never share a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import redis

from app.config import ConfigError
from app.tasks.embedded import EmbeddedRedis, free_port
from testing.waiting import until


def value(server: EmbeddedRedis) -> bytes | None:
    try:
        with redis.Redis.from_url(server.url) as client:
            return cast("bytes | None", client.get("name"))
    except redis.ConnectionError:
        return None


def test_a_server_that_dies_comes_back_at_its_port_with_its_data(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start().keep()
    try:
        with redis.Redis.from_url(server.url) as client:
            client.set("name", "kept")
        for _ in range(2):
            killed = server.pid
            os.kill(killed, signal.SIGKILL)
            until("another one runs", lambda: server.pid != killed)  # noqa: B023
            until("it has the data", lambda: value(server) == b"kept")
    finally:
        server.stop()
    assert value(server) is None, "stopped for good"


def test_the_next_process_finds_the_data_of_one_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "redis"
    port = free_port()
    program = (
        "import os, pathlib, redis; from app.tasks.embedded import EmbeddedRedis; "
        f"server = EmbeddedRedis(pathlib.Path({str(folder)!r}), {port}).start().keep(); "
        "redis.Redis.from_url(server.url).set('name', 'kept'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    server = EmbeddedRedis(folder, port).start()
    assert value(server) == b"kept"
    server.stop()


def test_a_folder_in_use_is_refused_by_name(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start()
    with pytest.raises(ConfigError, match=f"another embedded Redis uses the folder {tmp_path}.*REDIS_URL"):
        EmbeddedRedis(tmp_path).start(deadline_seconds=0.1)
    server.stop()
