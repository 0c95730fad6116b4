"""Videos in the storage: one file an attempt, any scheme that fsspec knows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import fsspec
import pytest

from app.config import ConfigError
from app.media.storage import LocalFiles, Storage, StorageError, new_image_path, video_path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(b"film")
    return path


def test_each_attempt_has_a_file_of_its_own() -> None:
    attempts = [(1, "x"), (2, "x"), (1, "y")]
    assert len({video_path("a", *attempt) for attempt in attempts}) == 3


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_what_is_put_can_be_read_locally(scheme: str, tmp_path: Path, file: Path) -> None:
    uri = tmp_path.joinpath("videos").as_uri() if scheme == "file" else "memory://videos"
    storage = Storage(uri)
    storage.put(file, "a/1.mp4")
    assert storage.local_copy("a/1.mp4").read_bytes() == b"film"


def test_only_the_winners_file_is_kept(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    for attempt, token in ((1, "x"), (1, "y"), (2, "x")):
        storage.put(file, video_path("a", attempt, token))
    storage.put(file, video_path("b", 1, "x"))
    storage.delete_task("a", keep="a/1-y.mp4")
    assert sorted(str(path.relative_to(tmp_path / "videos")) for path in tmp_path.glob("videos/*/*")) == [
        "a/1-y.mp4",
        "b/1-x.mp4",
    ]


def test_a_forgotten_task_leaves_nothing(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    for path in (video_path("a", 1, "x"), video_path("a", 1, "y"), "a/1.mp4", new_image_path("a")):
        storage.put(file, path)
    storage.delete_task("a")
    storage.delete_task("a")
    assert list((tmp_path / "videos").iterdir()) == []


def test_the_last_deleted_file_takes_its_folder_with_it(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    for path in ("a/1.mp4", "a/2.mp4"):
        storage.put(file, path)
    storage.delete("a/1.mp4")
    assert [path.name for path in (tmp_path / "videos/a").iterdir()] == ["2.mp4"]
    storage.delete("a/2.mp4")
    storage.delete("a/2.mp4")
    assert list((tmp_path / "videos").iterdir()) == []


def test_a_file_is_stored_although_its_folder_is_deleted_meanwhile(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    make_folder = Path.mkdir
    made: list[Path] = []

    def make_and_lose(folder: Path, *arguments: bool, **options: bool) -> None:
        make_folder(folder, *arguments, **options)
        if folder.name == "a" and not made:
            made.append(folder)
            folder.rmdir()

    with mock.patch.object(Path, "mkdir", make_and_lose):
        storage.put(file, "a/2.mp4")
    assert storage.read("a/2.mp4") == b"film"
    assert made


def test_a_missing_video_is_missing(tmp_path: Path) -> None:
    for uri in (tmp_path.as_uri(), "memory://nothing"):
        with pytest.raises(FileNotFoundError):
            Storage(uri).local_copy("a/1.mp4")


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"STORAGE_URI: 'gopher://x' cannot be used"):
        Storage("gopher://x")


def test_a_video_that_could_not_be_stored_whole_is_not_there(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    full = mock.patch("shutil.copyfile", side_effect=OSError(28, "No space left on device"))
    with full, pytest.raises(StorageError, match=r"does not store a/1\.mp4: OSError: .*No space left"):
        storage.put(file, "a/1.mp4")
    assert list((tmp_path / "videos" / "a").iterdir()) == []


class Broken(Exception):
    """Stands for an error of a storage's own library, which is no OSError."""


@pytest.mark.parametrize("call", ["check", "put", "write", "read", "local_copy", "delete", "delete_task"])
def test_every_error_of_a_storage_has_one_type_that_names_the_storage(call: str, file: Path) -> None:
    storage = Storage("memory://videos")
    calls: dict[str, Callable[[], object]] = {
        "check": storage.check,
        "put": lambda: storage.put(file, "a/1.mp4"),
        "write": lambda: storage.write(b"", "a/1.mp4"),
        "read": lambda: storage.read("a/1.mp4"),
        "local_copy": lambda: storage.local_copy("a/1.mp4"),
        "delete": lambda: storage.delete("a/1.mp4"),
        "delete_task": lambda: storage.delete_task("a"),
    }
    with mock.patch.object(storage, "_filesystem", mock.Mock(protocol=("s3",))) as filesystem:
        for method in ("put_file", "pipe_file", "cat_file", "info", "rm_file", "ls"):
            getattr(filesystem, method).side_effect = Broken("no credentials")
        with pytest.raises(StorageError, match=r"memory://videos does not \w+ .*: Broken: no credentials"):
            calls[call]()


def test_no_bucket_is_ever_created(file: Path) -> None:
    storage = Storage("memory://videos")
    with mock.patch.object(storage, "_filesystem", mock.Mock(protocol=("s3",))) as filesystem:
        storage.put(file, "a/1.mp4")
        storage.write(b"x", "a/x.image")
        assert not filesystem.makedirs.called
        assert not filesystem.mkdir.called


def test_many_that_ask_for_one_video_share_one_copy(file: Path) -> None:
    storage = Storage("memory://videos")
    storage.put(file, "a/1.mp4")
    with mock.patch.object(storage, "_fetch", wraps=storage._fetch) as fetch, ThreadPoolExecutor(20) as threads:
        copies = set(threads.map(storage.local_copy, ["a/1.mp4"] * 60))
    assert (len(copies), fetch.call_count) == (1, 1)
    storage.delete("a/1.mp4")
    assert not copies.pop().exists(), "the copy goes with the video"


def test_a_copy_that_breaks_off_is_an_error_and_leaves_nothing(file: Path) -> None:
    storage = Storage("memory://videos")
    storage.put(file, "a/1.mp4")
    short = mock.patch.object(storage._filesystem, "get_file", lambda _, path: Path(path).write_bytes(b"fi"))
    with short, pytest.raises(StorageError, match="broke off after 2 of 4 bytes"):
        storage.local_copy("a/1.mp4")
    assert storage.local_copy("a/1.mp4").read_bytes() == b"film", "the next one is whole"


def test_copies_are_bounded_and_the_least_used_goes_first(tmp_path: Path) -> None:
    copies = LocalFiles(most_bytes=10)
    paths = {name: copies.get(name, lambda path: path.write_bytes(b"1234")) for name in "ab"}
    copies.get("a", Path.touch)
    copies.get("c", lambda path: path.write_bytes(b"1234"))
    assert [name for name, path in paths.items() if path.exists()] == ["a"]


@pytest.fixture(autouse=True)
def _empty_memory() -> None:
    fsspec.filesystem("memory").store.clear()
