"""The operator's plain HTTP endpoints, on IPv4 and IPv6: the kubelet uses the family of the pod's first address."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


async def listen(port: int, path: str, answer: Callable[[web.Request], web.Response]) -> web.AppRunner:
    """Answer GET requests for ``path`` on every address of ``port``, until the returned runner is cleaned up."""

    async def handler(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.add_routes([web.get(path, handler)])
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    # No host: "0.0.0.0" leaves IPv6 out, and "::" fails on a kernel without it.
    await web.TCPSite(runner, None, port).start()
    return runner


def metrics(_: web.Request) -> web.Response:
    """Return all Prometheus metrics of this process."""
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
