"""Encoded pictures for tests."""

import io
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(
    kind: str, size: tuple[int, int] = (80, 40), mode: str = "RGB", color: str = "red", **options: Any
) -> bytes:
    """Return a picture of one colour (black in other modes than RGB) in the format ``kind``."""
    file = io.BytesIO()
    Image.new(mode, size, color if mode == "RGB" else 0).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says it is that large and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\1\0IDAT"
