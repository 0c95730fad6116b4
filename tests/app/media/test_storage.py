"""Videos in the storage: one file an attempt, any scheme that fsspec knows."""

from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest

from app.config import ConfigError
from app.media.storage import Storage, video_path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(b"film")
    return path


def test_each_attempt_has_a_file_of_its_own() -> None:
    assert {video_path("a", 1), video_path("a", 2)} == {"a/1.mp4", "a/2.mp4"}


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_what_is_put_can_be_read_locally(scheme: str, tmp_path: Path, file: Path) -> None:
    uri = tmp_path.joinpath("videos").as_uri() if scheme == "file" else "memory://videos"
    storage = Storage(uri)
    storage.put(file, "a/1.mp4")
    assert storage.local_copy("a/1.mp4").read_bytes() == b"film"


def test_only_the_winners_file_is_kept(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    for attempt in (1, 2, 3):
        storage.put(file, video_path("a", attempt))
    storage.put(file, video_path("b", 1))
    storage.delete_task("a", keep="a/2.mp4")
    assert sorted(str(path.relative_to(tmp_path / "videos")) for path in tmp_path.glob("videos/*/*")) == [
        "a/2.mp4",
        "b/1.mp4",
    ]


def test_a_forgotten_task_leaves_nothing(tmp_path: Path, file: Path) -> None:
    storage = Storage((tmp_path / "videos").as_uri())
    storage.put(file, "a/1.mp4")
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
    make_folder = storage._filesystem.makedirs
    made: list[str] = []

    def make_and_lose(folder: str, **options: Any) -> None:
        make_folder(folder, **options)
        if not made:
            Path(folder).rmdir()
        made.append(folder)

    with mock.patch.object(storage._filesystem, "makedirs", make_and_lose):
        storage.put(file, "a/2.mp4")
    assert storage.read("a/2.mp4") == b"film"
    assert len(made) == 2


def test_a_missing_video_is_missing(tmp_path: Path) -> None:
    for uri in (tmp_path.as_uri(), "memory://nothing"):
        with pytest.raises(FileNotFoundError):
            Storage(uri).local_copy("a/1.mp4")


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"STORAGE_URI: 'gopher://x' cannot be used"):
        Storage("gopher://x")


@pytest.fixture(autouse=True)
def _empty_memory() -> None:
    fsspec.filesystem("memory").store.clear()
