"""Checks the image from which a video begins, and scales it to the video's size."""

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

# Formats that are named in an error, by their first bytes; files of these formats are never opened.
_OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"%PDF": "a PDF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"<svg": "an SVG",
}


# The same for formats whose name is in the fifth to twelfth byte (ISO base media files).
_OTHER_BRANDS = {
    b"ftypheic": "a HEIC",
    b"ftypheix": "a HEIC",
    b"ftypmif1": "a HEIF",
    b"ftypavif": "an AVIF",
}


class InvalidImageError(ValueError):
    """The bytes are not an accepted image; the message says what was found and what is allowed."""


@dataclass(frozen=True)
class ImageFacts:
    """The description of a request's image, shown and stored in place of the image itself."""

    sha256: str
    """Of the encoded bytes, in hexadecimal."""
    format: str
    """One of ``FORMATS``."""
    width: int
    """Pixels, after turning the picture upright."""
    height: int
    """Pixels, after turning the picture upright."""
    bytes: int
    """Length of the encoded image."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data URL.

    Raises:
        InvalidImageError: ``text`` is not base64, or is too long to be an accepted image.
    """
    if text[:8].lower().startswith(("http://", "https://")):
        raise InvalidImageError(
            f"found a URL; the service fetches nothing: send the picture itself, as base64. Allowed is {ALLOWED}"
        )
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > (MAX_BYTES + 3) * 4 // 3:
        raise InvalidImageError(f"found {len(text)} characters of base64; allowed is {ALLOWED}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError(f"found a string that is no base64; allowed is {ALLOWED}, as base64") from None


def inspect(content: bytes) -> ImageFacts:
    """Check an encoded image and return its facts; the whole picture is decoded once to find damage.

    Raises:
        InvalidImageError: the image is empty, too large, of another format, or damaged.
    """
    if not 0 < len(content) <= MAX_BYTES:
        raise InvalidImageError(f"found {len(content)} bytes; allowed is {ALLOWED}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            # The size comes from the header: the picture is decoded only after it is known to be small enough.
            if width * height > MAX_PIXELS:
                raise InvalidImageError(f"found {width}x{height} pixels; allowed is {ALLOWED}")
            kind = str(image.format)
            width, height = ImageOps.exif_transpose(image).size
    except UnidentifiedImageError:
        names = [name for magic, name in _OTHERS.items() if content.startswith(magic)]
        found = next(iter(names), _OTHER_BRANDS.get(content[4:12], "no known picture"))
        raise InvalidImageError(f"found {found} of {len(content)} bytes; allowed is {ALLOWED}") from None
    except Image.DecompressionBombError:
        raise InvalidImageError(f"found more pixels than any video has; allowed is {ALLOWED}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InvalidImageError):
            raise
        raise InvalidImageError(f"found a damaged picture ({error}); allowed is {ALLOWED}") from None
    return ImageFacts(hashlib.sha256(content).hexdigest(), kind, width, height, len(content))


def fitted(content: bytes, width: int, height: int) -> Image.Image:
    """Return the picture upright, in RGB, scaled to cover ``width`` x ``height`` pixels and cropped to its centre."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    return ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)


def grey(width: int, height: int) -> bytes:
    """Return a PNG of ``width`` x ``height`` pixels of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def sides_like(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """Return the width and height of a video in the proportions of a picture of ``width`` x ``height``.

    Args:
        width: the picture's, in pixels.
        height: the picture's, in pixels.
        area: the product of width and height to come close to, in pixels.
        multiple: a number that divides both sides, in pixels.
    """
    high = (area * height / width) ** 0.5
    wide, high = (max(multiple, int(side) // multiple * multiple) for side in (area / high, high))
    return wide, high
