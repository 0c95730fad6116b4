"""The one way in: connections to a port of the machine's loopback go on to the node's API server.

The listening socket is opened outside and inherited, so the node needs no link to the machine's network.
"""

import asyncio
import contextlib
import socket
import threading

from tools.node.place import API_PORT


def serve_in_background(listener: socket.socket) -> None:
    """Forward every connection that ``listener`` accepts, until the process ends."""
    threading.Thread(target=lambda: asyncio.run(_serve(listener)), daemon=True, name="forward").start()


async def _serve(listener: socket.socket) -> None:
    server = await asyncio.start_server(_forward, sock=listener)
    await server.serve_forever()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", API_PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A side that goes away ends its copy; the other side is told by the close.
    with contextlib.suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
