"""Reads and writes videos as arrays."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.reader import Frames


def read_file(path: str | Path) -> Frames:
    """Decode every frame of the video at ``path``.

    Raises:
        OSError: the file is missing or is no video (av's errors are OSErrors or ValueErrors).
    """
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_file(path: str | Path, frames: Frames, fps: int) -> None:
    """Write ``frames`` as H.264 mp4 of ``fps`` frames a second; width and height must be even."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
