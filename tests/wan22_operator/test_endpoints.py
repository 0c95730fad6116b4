"""The operator's plain HTTP endpoints, asked over both families of addresses."""

import aiohttp
import pytest
from aiohttp import web
from wan22_operator.endpoints import listen, metrics

from testing.ports import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_metrics_are_answered_on_ipv4_and_ipv6(host: str) -> None:
    port = free_port()
    runner = await listen(port, "/metrics", metrics)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as reply:
            assert reply.status == 200
            assert "python_info" in await reply.text()
    finally:
        await runner.cleanup()


async def test_an_answer_that_raises_is_a_server_error_for_the_probe() -> None:
    def ended(_: web.Request) -> web.Response:
        raise RuntimeError("a task ended")

    port = free_port()
    runner = await listen(port, "/healthz", ended)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as reply:
            assert reply.status == 500
    finally:
        await runner.cleanup()
