"""Encodes frames as an H.264 mp4 that a browser can play before it has loaded the whole file."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray


def write_mp4(pieces: Iterable[NDArray[np.uint8]], fps: int, path: Path) -> None:
    """Write the pieces of one video to ``path``, encoding each piece while ``pieces`` makes the next one.

    Colours are converted by BT.709 to limited range, and the file names this in the H.264 stream and in the box
    ``colr`` (ITU-T H.273). Players assume a matrix from the picture's size if a file names none.

    An exception of ``pieces`` or of the encoder ends the writing and is raised.

    Args:
        pieces: each (frames, height, width, 3), RGB, 0 to 255; height and width are even, and the same in all pieces.
        fps: frames per second.
        path: the file to write.

    Raises:
        ValueError: a piece has another shape.
    """
    # faststart moves the index before the frames, so a player can begin before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        colors = stream.codec_context
        colors.colorspace = Colorspace.ITU709
        colors.color_primaries = ColorPrimaries.BT709
        colors.color_trc = ColorTrc.BT709
        colors.color_range = ColorRange.MPEG

        def encode(frames: NDArray[np.uint8]) -> None:
            if frames.ndim != 4 or frames.shape[3] != 3:
                raise ValueError(f"a piece of a video must be (frames, height, width, 3), found {frames.shape}")
            if not stream.codec_context.is_open:
                stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                container.mux(stream.encode(_to_yuv(frame)))

        with ThreadPoolExecutor(1) as encoder:
            encoding: Future[None] | None = None
            for piece in pieces:
                # At most one piece waits: a slow encoder holds the decoder back instead of filling the memory.
                if encoding:
                    encoding.result()
                encoding = encoder.submit(encode, piece)
            if encoding:
                encoding.result()
        container.mux(stream.encode(None))


def _to_yuv(frame: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


def read_mp4(path: Path) -> NDArray[np.uint8]:
    """Return all frames of a video as (frames, height, width, 3), RGB, 0 to 255; its file names its colour matrix."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
