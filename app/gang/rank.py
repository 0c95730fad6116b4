"""One rank: a Ray actor with one device, the loaded model and a part in the gang's process group."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray

from app.config import ConfigError, Device, ModelOptions
from app.log import show_log
from app.tasks.task_config import TaskConfig
from app.text import first_line

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

    from app.model.pipeline import Pipeline

_log = logging.getLogger(__name__)

CONTROL_GROUP = "control"
"""The Ray concurrency group of the calls that a rank answers while it computes."""
_MORE_MEMORY = "ask for fewer frames or a smaller picture, give the gang more ranks, or set offload_weights to always"


@dataclass(frozen=True)
class RankPlace:
    """The node and the process of a rank."""

    node_id: str
    ip: str
    pid: int


@dataclass(frozen=True)
class Rendezvous:
    """One rank's part in a process group, as in torch's ``env://`` initialization (torch.distributed)."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int

    def environment(self) -> dict[str, str]:
        """Return RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT."""
        return {name.upper(): str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class RankState:
    """The work of a rank at one moment."""

    path: str | None
    """Storage path of the video that it makes; None when idle."""
    step: int
    """Finished steps of that video."""


F = TypeVar("F", bound=Callable[..., Any])


def _in_control_thread(method: F) -> F:
    """Let Ray run ``method`` in the control thread, so that it answers while the main thread computes."""
    return cast(F, ray.method(concurrency_group=CONTROL_GROUP)(method))


class TaskFailedError(Exception):
    """The task itself failed on a working rank; ``code`` is for programs, ``message`` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class OutOfStepError(TaskFailedError):
    """The task failed on this rank at a point that other ranks need not have reached: the group has to form again."""


class VideoNotWrittenError(TaskFailedError):
    """Rank 0 alone failed, outside of any collective: all ranks are fit for the next task."""


class PeerLostError(Exception):
    """A collective failed because another rank, or the network between the ranks, is gone."""


class RankLostError(Exception):
    """This process is not fit for another task, by no fault of the task: its CUDA context or its memory is damaged."""


class DeviceLostError(RankLostError):
    """This rank's GPU failed, or its context on it: a new process may work there, or fail in the same way."""


class StorageAwayError(Exception):
    """The storage did not take the video; the video is still on rank 0's disk."""


class Rank:
    """The process of one rank. ``state`` and ``cancel`` run in the control thread and answer while it computes.

    Args:
        model_path: a diffusers Wan folder or hub id.
        storage_uri: where rank 0 stores videos.
        device: cuda or cpu.
        options: how to run the model.
    """

    def __init__(self, model_path: str, storage_uri: str, device: Device, options: ModelOptions | None = None) -> None:
        show_log()
        self._model_path = model_path
        self._storage_uri = storage_uri
        self._device = device
        self._options = options or ModelOptions()
        self._pipeline: Pipeline | None = None
        self._store: dist.TCPStore | None = None
        self._path: str | None = None
        self._step = 0
        self._cancelled: str | None = None
        self._video: tempfile.TemporaryDirectory[str] | None = None
        """The folder with the finished video, until the next one is made."""

    def place(self) -> RankPlace:
        context = ray.get_runtime_context()
        return RankPlace(context.get_node_id(), ray.util.get_node_ip_address(), os.getpid())

    def load(self, ranks: int) -> str:
        """Load the model once, for a gang of ``ranks``; return the attention backend that it uses.

        Raises:
            ConfigError: the model folder or the device cannot be used.
            DeviceLostError: the GPU failed.
        """
        if self._pipeline is None:
            import torch

            from app.model.pipeline import Pipeline

            if self._device == "cpu":
                # Ranks that share a machine's cores would otherwise each start a thread for every one of them.
                torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
            try:
                self._pipeline = Pipeline(self._model_path, self._torch_device(), self._options, ranks)
            except RuntimeError as error:
                if lost := _device_lost(error):
                    raise lost from error
                raise
        return self._pipeline.attention

    @_in_control_thread
    def check_count(self, ranks: int) -> str | None:
        """Return the reason why this rank, as it is loaded, cannot be part of a gang of ``ranks``; None if it can."""
        if self._pipeline is None:
            raise RuntimeError("the rank has no model: load comes before check_count")
        return self._pipeline.refusal(ranks)

    def open_store(self, timeout_seconds: float) -> tuple[str, int]:
        """Start the store at which the ranks of the next process group meet; return its address and port.

        The system chooses a free port, so no other gang on this node uses it.
        """
        import torch.distributed as dist

        ip = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(
            ip, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds)
        )
        return ip, self._store.port

    def join(self, rendezvous: Rendezvous, timeout_seconds: float) -> dict[str, str]:
        """Join the process group that meets at rank 0's store; return the five variables as this process has them.

        This call returns when every rank has joined.
        """
        import torch.distributed as dist

        if self._pipeline is None:
            raise RuntimeError("the rank has no model: load comes before join")
        os.environ.update(rendezvous.environment())
        timeout = timedelta(seconds=timeout_seconds)
        store = self._store
        if rendezvous.rank != 0 or store is None:
            store = dist.TCPStore(
                rendezvous.master_addr, rendezvous.master_port, is_master=False, wait_for_workers=False, timeout=timeout
            )
        self._store = store
        self._pipeline.join(store, rendezvous.rank, rendezvous.world_size, timeout)
        return {name: os.environ[name] for name in rendezvous.environment()}

    def warm_up(self) -> None:
        """Compile the blocks for the model's default video, together with the other ranks.

        Raises:
            TaskFailedError: the default video cannot be made here; the rank is fit for other tasks.
            PeerLostError: the ranks cannot reach each other any more.
        """
        if self._pipeline is None:
            raise RuntimeError("the rank has no model: load comes before warm_up")
        try:
            self._pipeline.warm_up()
        except Exception as error:
            raise _translated(error) from error

    def leave(self) -> None:
        """Leave the process group; the process keeps the model."""
        if self._pipeline is not None:
            self._pipeline.leave()
        self._store = None

    def generate(self, config: TaskConfig, path: str) -> str | None:
        """Run one task together with the other ranks; rank 0 keeps the video on its disk for ``store_video``.

        Args:
            config: the request.
            path: storage path of the video; it names the attempt for ``cancel`` and ``store_video``.

        Returns:
            ``path`` on rank 0; None on other ranks, and on all ranks if the task was cancelled.

        Raises:
            TaskFailedError: the task cannot be done; the rank is fit for the next one.
            PeerLostError: the ranks cannot reach each other any more.
            RankLostError: this rank is not fit for any task.
        """
        from app.model.denoise import CancelledError
        from app.model.pipeline import NotFiniteError

        if self._pipeline is None:
            raise RuntimeError("the rank has no model: load comes before generate")
        self._step, self._path = 0, path
        try:
            image = self._image(config)
            pieces = self._pipeline.stream(config, self._on_step, image)
            if pieces is not None:
                try:
                    self._write_video(pieces, config.fps)
                finally:
                    # Drain the iterator even if writing failed: the other ranks decode in lockstep and would wait.
                    for _ in pieces:
                        pass
                return path
        except CancelledError:
            pass
        except NotFiniteError as error:
            raise TaskFailedError("not_finite", str(error)) from error
        except TaskFailedError:
            raise
        except Exception as error:
            raise _translated(error) from error
        finally:
            self._path = None
        return None

    def store_video(self, path: str) -> None:
        """Store the video that ``generate`` made at ``path``. It may be called again if the storage was away.

        Raises:
            StorageAwayError: the storage did not take it.
        """
        from app.media.storage import Storage, StorageError

        if self._video is None:
            raise RuntimeError("the rank has no video: generate comes before store_video")
        try:
            Storage(self._storage_uri).put(Path(self._video.name, "video.mp4"), path)
        except StorageError as error:
            raise StorageAwayError(str(error)) from error
        self._video.cleanup()
        self._video = None

    def _write_video(self, pieces: Iterable[Any], fps: int) -> None:
        from app.media.mp4 import write_mp4

        if self._video is not None:
            self._video.cleanup()
        self._video = tempfile.TemporaryDirectory(prefix="wan22-")
        try:
            write_mp4(pieces, fps, Path(self._video.name, "video.mp4"))
        except OSError as error:
            message = (
                f"rank 0 could not write the video to its disk ({error.strerror or error}); make room in the pod's /tmp"
            )
            raise VideoNotWrittenError("video_not_written", message) from error

    @_in_control_thread
    def state(self) -> RankState:
        return RankState(self._path, self._step)

    @_in_control_thread
    def cancel(self, path: str) -> None:
        """Stop the attempt at ``path`` at its next step. Only rank 0 needs this call: it decides for all ranks."""
        self._cancelled = path

    def _image(self, config: TaskConfig) -> bytes | None:
        """Return the task's image on every rank; only rank 0 reads it from the storage."""
        image = config.image
        if image is None or self._pipeline is None:
            return None
        return self._pipeline.share(lambda: _stored_image(self._storage_uri, image.path))

    def _on_step(self, step: int) -> bool:
        self._step = step
        return self._cancelled is None or self._cancelled != self._path

    def _torch_device(self) -> "torch.device":
        import torch

        if self._device == "cpu":
            return torch.device("cpu")
        assigned = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        index = device_index(torch.cuda.device_count(), assigned, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return torch.device("cuda", index)


def device_index(visible: int, assigned: Sequence[str], cuda_visible_devices: str | None) -> int:
    """Return the index of this rank's GPU among the GPUs that its process sees. It never depends on the rank's number.

    Args:
        visible: number of GPUs that torch sees in this process.
        assigned: the GPU ids that Ray gave to this process.
        cuda_visible_devices: the environment variable; torch numbers the GPUs in its order.

    Raises:
        ConfigError: the process sees no GPU, or not the one that it was given.
    """
    if visible == 0:
        raise ConfigError(
            "device: the rank was asked to use cuda but torch sees no GPU; give the worker pods nvidia.com/gpu, or set "
            "the application's argument device to cpu"
        )
    if visible == 1:
        return 0
    # Isolation is off (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES), so every process sees every GPU of its node.
    order = cuda_visible_devices.split(",") if cuda_visible_devices else [str(index) for index in range(visible)]
    if not assigned or assigned[0] not in order or order.index(assigned[0]) >= visible:
        raise ConfigError(
            f"device: Ray gave this rank GPU {list(assigned)}, torch sees {visible} GPUs with CUDA_VISIBLE_DEVICES="
            f"{cuda_visible_devices!r}; unset RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES so that Ray isolates them"
        )
    return order.index(assigned[0])


def _stored_image(storage_uri: str, path: str) -> bytes:
    from app.media.storage import Storage, StorageError

    try:
        return Storage(storage_uri).read(path)
    except StorageError as error:
        raise StorageAwayError(str(error)) from error
    except FileNotFoundError:
        raise TaskFailedError(
            "image_lost", f"the task's image is no longer in the storage ({path}); submit the task again"
        ) from None


_DAMAGED = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "NVRTC", "uncorrectable ECC")
"""In the messages of errors after which a CUDA context, and so the process, computes nothing any more."""


def _translated(error: Exception) -> Exception:
    """Return the error as the leader understands it: the task's, the peers', or this rank's."""
    import torch
    import torch.distributed as dist

    line = first_line(error)
    # The rest of torch's message is about its allocator.
    found = line.partition(". Including ")[0]
    # Gloo raises a plain RuntimeError; only the source file in its message identifies it.
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in line):
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            return OutOfStepError("out_of_memory", f"a GPU does not hold this request ({found}); {_MORE_MEMORY}")
        return PeerLostError(line)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return TaskFailedError("out_of_memory", f"the GPU does not hold this request ({found}); {_MORE_MEMORY}")
    if isinstance(error, StorageAwayError):
        return error
    if lost := _device_lost(error):
        return lost
    if isinstance(error, MemoryError):
        return RankLostError(f"{type(error).__name__}: {line}")
    return TaskFailedError("generation_failed", f"{type(error).__name__}: {line}")


def _device_lost(error: Exception) -> DeviceLostError | None:
    """Return the error as a failure of the rank's GPU; None if it is another one."""
    import torch

    is_damage = isinstance(error, RuntimeError) and any(name in str(error) for name in _DAMAGED)
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or is_damage:
        return DeviceLostError(f"{type(error).__name__}: {first_line(error)}")
    return None
