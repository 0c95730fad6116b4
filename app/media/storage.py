"""The storage of videos and images: a folder or a bucket behind STORAGE_URI, through fsspec."""

import contextlib
import os
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec

from app.config import ConfigError
from app.text import first_line

_CACHE_BYTES = 4 * 2**30
"""Local copies of remote videos, in all; the ones that were not asked for the longest go first."""


class StorageError(Exception):
    """The storage did not take, give or delete a file. The message names the storage and its reason."""


def video_path(task_id: str, attempt: int, token: str) -> str:
    """Return the path of an attempt's video. Each attempt has its own file, so none can damage another's.

    Two attempts may have the same number but never the same token (``app.tasks.store.Started``). Readers take the path
    from the task's record and never from its parts, so the name can get further parts.
    """
    return f"{task_id}/{attempt}-{token}.mp4"


def new_image_path(task_id: str) -> str:
    """Return a path for the image of one submission. No other submission has the same, so it can be deleted safely."""
    return f"{task_id}/{uuid.uuid4().hex}.image"


class Storage:
    """Files under one URI, such as ``file:///videos`` or ``s3://bucket/videos``. Paths are relative to it.

    A file that exists is whole: it appears in one step, by a rename or as an object.

    Raises:
        ConfigError: no installed library can read the URI's scheme.
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
        self._copies = LocalFiles(_CACHE_BYTES)

    def check(self) -> None:
        """Store and delete a small file.

        Raises:
            StorageError: the storage does not take files: a wrong bucket or key, no space, no network.
        """
        path = f".wan22-check-{uuid.uuid4().hex}"
        self.write(b"", path)
        self.delete(path)

    def put(self, file: Path, path: str) -> None:
        """Store a local file at ``path`` and replace a file that is there.

        Raises:
            StorageError: the storage did not take it; nothing is at ``path`` that was not there before.
        """
        with self._errors("store", path):
            if not self._is_local:
                # No makedirs: it would try to create the bucket, which needs rights that nobody should have to give.
                self._filesystem.put_file(str(file), self._at(path))
                return
            with self._new_file(path) as part:
                shutil.copyfile(file, part)

    def write(self, content: bytes, path: str) -> None:
        """Store bytes at ``path``.

        Raises:
            StorageError: the storage did not take them.
        """
        with self._errors("store", path):
            if not self._is_local:
                self._filesystem.pipe_file(self._at(path), content)
                return
            with self._new_file(path) as part:
                part.write_bytes(content)

    def read(self, path: str) -> bytes:
        """Return the bytes at ``path``.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the storage does not answer.
        """
        with self._errors("read", path):
            return bytes(self._filesystem.cat_file(self._at(path)))

    def local_copy(self, path: str) -> Path:
        """Return a local file with the content of ``path``. A remote file is fetched once, whole, and kept for a while.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the storage does not answer, or the copy broke off.
        """
        target = self._at(path)
        with self._errors("read", path):
            if self._is_local:
                if not Path(target).is_file():
                    raise FileNotFoundError(target)
                return Path(target)
            return self._copies.get(path, lambda file: self._fetch(target, file))

    def delete(self, path: str) -> None:
        """Delete one file, and its folder if that is empty now. It is no error if there is no such file.

        Raises:
            StorageError: the storage did not delete it.
        """
        self._copies.forget(path)
        with self._errors("delete", path):
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(self._at(path))
            if self._is_local and "/" in path:
                with contextlib.suppress(OSError):
                    Path(self._at(path)).parent.rmdir()

    def delete_task(self, task_id: str, keep: str | None = None) -> None:
        """Delete every file of a task but ``keep``. It is no error if there is none.

        Raises:
            StorageError: the storage did not delete them all.
        """
        with self._errors("delete", task_id):
            try:
                # A listing that was cached may lack the files of the last attempt.
                found = self._filesystem.ls(self._at(task_id), detail=False, refresh=True)
            except FileNotFoundError:
                return
        for file in found:
            path = f"{task_id}/{file.rsplit('/', 1)[-1]}"
            if path != keep:
                self.delete(path)

    def _fetch(self, target: str, file: Path) -> None:
        size = int(self._filesystem.info(target, refresh=True)["size"])
        self._filesystem.get_file(target, str(file))
        if file.stat().st_size != size:
            raise OSError(f"the copy broke off after {file.stat().st_size} of {size} bytes")

    @contextlib.contextmanager
    def _new_file(self, path: str) -> Iterator[Path]:
        """Yield a file to write; it takes its name at the end, if nothing failed."""
        target = Path(self._at(path))
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        while not part.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process may delete the folder, if it is empty, before the file is in it.
            with contextlib.suppress(FileNotFoundError):
                part.touch()
        try:
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, verb: str, path: str) -> Iterator[None]:
        # Each storage's library has its own exceptions; botocore's, for one, are no OSError.
        try:
            yield
        except (FileNotFoundError, StorageError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise StorageError(f"{self.uri} does not {verb} {path}: {reason}") from error

    @property
    def _is_local(self) -> bool:
        return "file" in self._filesystem.protocol

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


class LocalFiles:
    """Files that can be made again, such as copies of remote ones: one for each path, however many ask at once.

    Args:
        most_bytes: the size of all files together; the ones that were not asked for the longest go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._files: dict[str, Path] = {}
        """In the order of their last use."""

    def get(self, path: str, fetch: Callable[[Path], object]) -> Path:
        """Return the file of ``path``; if there is none, ``fetch`` writes it."""
        with self._lock:
            own = self._fetching.setdefault(path, threading.Lock())
        with own:
            with self._lock:
                file = self._files.pop(path, None)
                if file is not None and file.exists():
                    self._files[path] = file
                    return file
                if self._folder is None:
                    self._folder = Path(tempfile.mkdtemp(prefix="wan22-videos-"))
                    weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
                file = self._folder / uuid.uuid4().hex
            try:
                fetch(file)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            with self._lock:
                self._files[path] = file
                self._fetching.pop(path, None)
                self._trim(path)
            return file

    def forget(self, path: str) -> None:
        """Delete the file of ``path``."""
        with self._lock:
            file = self._files.pop(path, None)
        if file is not None:
            file.unlink(missing_ok=True)

    def _trim(self, newest: str) -> None:
        sizes = {path: file.stat().st_size for path, file in self._files.items() if file.exists()}
        for path in list(self._files):
            # A file that is being sent stays readable for its sender after it was unlinked.
            if sum(sizes.values()) <= self._most_bytes or path == newest:
                return
            self._files.pop(path).unlink(missing_ok=True)
            sizes.pop(path, None)
