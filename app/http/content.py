"""What can be downloaded of a task: its video, and still pictures that are made of it when they are asked for."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from app.http.views import matches, video_headers
from app.media.stills import UnreadableVideoError, write_spritesheet, write_thumbnail
from app.media.storage import LocalFiles, Storage
from app.tasks.store import Task

_log = logging.getLogger(__name__)
_STILLS_BYTES = 64 * 2**20
_STILLS_THREADS = 2


class Variant(StrEnum):
    """One of the files that can be downloaded of a task."""

    VIDEO = "video"
    """The mp4."""
    THUMBNAIL = "thumbnail"
    """The first frame, as WebP."""
    SPRITESHEET = "spritesheet"
    """Up to 16 frames in the order of time, as JPEG."""


_KINDS: dict[Variant, tuple[str, str]] = {
    Variant.VIDEO: ("video/mp4", ".mp4"),
    Variant.THUMBNAIL: ("image/webp", "-thumbnail.webp"),
    Variant.SPRITESHEET: ("image/jpeg", "-spritesheet.jpg"),
}
"""Media type of each variant, and what follows the task's id in its file name."""
_WRITERS: dict[Variant, Callable[[Path, Path], None]] = {
    Variant.THUMBNAIL: write_thumbnail,
    Variant.SPRITESHEET: write_spritesheet,
}


class Contents:
    """Answers downloads. Stills are kept in a folder of this replica; they are not part of what the storage keeps."""

    def __init__(self) -> None:
        self._stills = LocalFiles(_STILLS_BYTES)
        # Threads of their own: decoding a long video must not hold up what else runs off the event loop.
        self._threads = ThreadPoolExecutor(_STILLS_THREADS, thread_name_prefix="stills")

    async def response(
        self, storage: Storage, task: Task, variant: Variant = Variant.VIDEO, if_none_match: str | None = None
    ) -> Response:
        """Return the answer with a file of the task; ranges are honoured, and its ETag is the same from every replica.

        Args:
            storage: where the task's video is.
            task: the task.
            variant: which file.
            if_none_match: the header If-None-Match; the answer is 304 without the file if it names the file's ETag.

        Raises:
            HTTPException: the task has no video (409), or its video is gone or damaged (410).
            StorageError: the storage does not answer.
        """
        if task.video is None:
            reason = (
                "it has no video. Only a succeeded task has one."
                if task.status.ended
                else "its video is not ready. Ask again when its status is succeeded."
            )
            raise HTTPException(409, f"Task {task.task_id!r} is {task.status}: {reason}")
        headers = video_headers(task)
        if variant is not Variant.VIDEO:
            headers["ETag"] = f'{headers["ETag"][:-1]}-{variant}"'
        if if_none_match is not None and matches(if_none_match, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        try:
            file = await asyncio.to_thread(storage.local_copy, task.video)
            if variant is not Variant.VIDEO:
                file = await self._still(file, variant, headers["ETag"])
        except FileNotFoundError:
            raise HTTPException(410, _gone(task, "was removed from the storage")) from None
        except UnreadableVideoError as error:
            _log.warning("no %s of task %s: %s", variant, task.task_id, error)
            raise HTTPException(410, _gone(task, "cannot be decoded")) from None
        kind, ending = _KINDS[variant]
        name = f"{task.task_id}{ending}"
        return FileResponse(file, headers=headers, media_type=kind, filename=name, content_disposition_type="inline")

    async def _still(self, video: Path, variant: Variant, tag: str) -> Path:
        def make(file: Path) -> None:
            _WRITERS[variant](video, file)

        return await asyncio.get_running_loop().run_in_executor(self._threads, self._stills.get, tag, make)


def _gone(task: Task, reason: str) -> str:
    return f"The video of task {task.task_id!r} {reason}; submit the request under another task_id to make a new one."
