"""Encodes frames as an H.264 mp4 that browsers play while it loads."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_mp4(frames: NDArray[np.uint8], fps: int, path: Path) -> None:
    """Write ``frames`` to ``path``.

    Args:
        frames: (frames, height, width, 3), RGB, 0 to 255; height and width are even.
        fps: frames a second.
        path: the file to write.
    """
    write_mp4_as_made([frames], fps, path)


def write_mp4_as_made(pieces: Iterable[NDArray[np.uint8]], fps: int, path: Path) -> None:
    """Write pieces of one video to ``path`` as they are made: each is encoded while ``pieces`` makes the next.

    An error of either side ends both, and is raised.
    """
    # faststart puts the index before the pictures, so a player may begin before it has the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"

        def encode(frames: NDArray[np.uint8]) -> None:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        with ThreadPoolExecutor(1) as encoder:
            encoding: Future[None] | None = None
            for piece in pieces:
                # One piece ahead at most: a slow encoder holds the decoder back, not the memory.
                if encoding:
                    encoding.result()
                encoding = encoder.submit(encode, piece)
            if encoding:
                encoding.result()
        container.mux(stream.encode(None))


def read_mp4(path: Path) -> NDArray[np.uint8]:
    """Return the frames of a video as (frames, height, width, 3), RGB, 0 to 255."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
