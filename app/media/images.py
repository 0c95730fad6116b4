"""The image from which a video begins: what is accepted, what is kept of it, and how it is fitted to the video."""

import base64
import binascii
import hashlib
import io
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 10 * 1024 * 1024
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
ALLOWED = f"PNG, JPEG or WebP, at most {MAX_BYTES // 2**20} MiB and {MAX_PIXELS // 10**6} million pixels"

# Only to say what was found: none of these is opened.
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"%PDF": "a PDF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"<svg": "an SVG",
}


class InvalidImageError(ValueError):
    """The bytes are no image that is accepted; the message says what they are and what is allowed."""


@dataclass(frozen=True)
class ImageFacts:
    """What is said of a request's image wherever the request is shown or stored."""

    sha256: str
    format: str
    width: int
    height: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decode_base64(text: str) -> bytes:
    """Return the bytes of ``text``, which may be a data URL.

    Raises:
        InvalidImageError: it is no base64, or too long to be an image that is accepted.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > (MAX_BYTES + 3) * 4 // 3:
        raise InvalidImageError(f"found {len(text)} characters of base64; allowed is {ALLOWED}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError(f"found a string that is no base64; allowed is {ALLOWED}, as base64") from None


def inspect(content: bytes) -> ImageFacts:
    """Return the facts of an image that can be used: its picture is decoded once to know that it is whole.

    Raises:
        InvalidImageError: it is empty, too large, of another format, or damaged.
    """
    if not 0 < len(content) <= MAX_BYTES:
        raise InvalidImageError(f"found {len(content)} bytes; allowed is {ALLOWED}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            # Said by the header: nothing is unpacked before it is known to be small enough.
            if width * height > MAX_PIXELS:
                raise InvalidImageError(f"found {width}x{height} pixels; allowed is {ALLOWED}")
            kind = str(image.format)
            width, height = ImageOps.exif_transpose(image).size
    except UnidentifiedImageError:
        found = next((name for magic, name in _OTHERS.items() if content.startswith(magic)), "no known picture")
        raise InvalidImageError(f"found {found} of {len(content)} bytes; allowed is {ALLOWED}") from None
    except Image.DecompressionBombError:
        raise InvalidImageError(f"found more pixels than any video has; allowed is {ALLOWED}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InvalidImageError):
            raise
        raise InvalidImageError(f"found a damaged picture ({error}); allowed is {ALLOWED}") from None
    return ImageFacts(hashlib.sha256(content).hexdigest(), kind, width, height, len(content))


def fitted(content: bytes, width: int, height: int) -> Image.Image:
    """Return the picture upright, in RGB, scaled to cover ``width`` x ``height`` and cut to it around its middle."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)


def grey(width: int, height: int) -> bytes:
    """Return a PNG of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def sides_like(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """Return a width and a height in the proportions of these, of about ``area`` pixels; ``multiple`` divides both."""
    high = (area * height / width) ** 0.5
    wide, high = (max(multiple, int(side) // multiple * multiple) for side in (area / high, high))
    return wide, high
