"""Stores videos and images in the folder or bucket that STORAGE_URI names, through fsspec."""

import contextlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from app.config import ConfigError


def video_path(task_id: str, attempt: int) -> str:
    """Return the path of an attempt's video; each attempt has a separate file, so none can damage another's."""
    return f"{task_id}/{attempt}.mp4"


def new_image_path(task_id: str) -> str:
    """Return a new path for one submission's image; it is unique, so deleting it never affects another submission."""
    return f"{task_id}/{uuid.uuid4().hex}.image"


class Storage:
    """The files under one URI, such as ``file:///videos`` or ``s3://bucket/videos``; paths are relative to it.

    Raises:
        ConfigError: no installed package can read the URI's scheme.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._filesystem, root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"STORAGE_URI: {uri!r} cannot be used ({error}); file://, s3:// (extra s3) and gs:// (extra gcs) can"
            ) from None
        self._root = root.rstrip("/")

    def put(self, file: Path, path: str) -> None:
        """Store a local file at ``path``, replacing an existing one."""
        self._create(path, lambda target: self._filesystem.put_file(str(file), target))

    def write(self, content: bytes, path: str) -> None:
        """Store bytes at ``path``, replacing an existing file."""
        self._create(path, lambda target: self._filesystem.pipe_file(target, content))

    def read(self, path: str) -> bytes:
        """Return the bytes at ``path``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return bytes(self._filesystem.cat_file(self._at(path)))

    def local_copy(self, path: str) -> Path:
        """Return a local file with the content of ``path``; a remote file is downloaded and kept for an hour.

        Raises:
            FileNotFoundError: there is no such file.
        """
        target = self._at(path)
        if self._is_local:
            if not Path(target).is_file():
                raise FileNotFoundError(target)
            return Path(target)
        cache: Any = fsspec.filesystem("filecache", fs=self._filesystem, expiry_time=3600, cache_storage="TMP")
        with cache.open(target) as file:
            return Path(file.name)

    def delete(self, path: str) -> None:
        """Delete one file if it exists, and its folder if that is then empty."""
        if self._filesystem.exists(self._at(path)):
            self._filesystem.rm_file(self._at(path))
        if self._is_local:
            with contextlib.suppress(OSError):
                Path(self._at(path)).parent.rmdir()

    def delete_task(self, task_id: str, keep: str | None = None) -> None:
        """Delete every file of a task except ``keep``, and its folder if nothing is kept; there may be no files."""
        folder = self._at(task_id)
        try:
            found = self._filesystem.ls(folder, detail=False)
        except FileNotFoundError:
            return
        for file in found:
            if keep is None or not file.endswith(keep):
                self._filesystem.rm_file(file)
        if keep is None and self._is_local:
            self._filesystem.rmdir(folder)

    def _create(self, path: str, write: Callable[[str], None]) -> None:
        """Make the folder of ``path`` and let ``write`` create the file in it."""
        target = self._at(path)
        folder = target.rsplit("/", 1)[0]
        self._filesystem.makedirs(folder, exist_ok=True)
        try:
            write(target)
        except FileNotFoundError:
            # Another attempt of the task deleted its own file, and with it the folder, which was empty at that moment.
            self._filesystem.makedirs(folder, exist_ok=True)
            write(target)

    @property
    def _is_local(self) -> bool:
        return "file" in self._filesystem.protocol

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"
