"""``python -m tools.readme``: runs the commands of README's "Try it" as they stand there.

``make demo`` must leave a video, ``make run`` must answer the requests that follow it, and what they start must be gone
afterwards. The section's commands that need GPUs are printed and not run.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[1]
PORT = 8000
"""The port that `serve run` has, and that README's requests name."""
DEMO_SECONDS, START_SECONDS, VIDEO_SECONDS, STOP_SECONDS = 300, 180, 60, 60


class ReadmeError(RuntimeError):
    """A command does not do what README says; the message has the command and its output."""


def commands(text: str) -> list[str]:
    """Return the shell commands of the section "Try it", comments removed and continued lines joined."""
    section = re.search(r"^## Try it\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ReadmeError("README.md has no section 'Try it'")
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    stripped = (re.sub(r"\s+#\s.*$", "", line).strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def main() -> int:
    """Run them; return the exit status."""
    started = time.monotonic()
    try:
        asked = commands((ROOT / "README.md").read_text(encoding="utf-8"))
        requests = [command for command in asked if command.startswith("curl ")]
        for wanted in ("make demo", "make run"):
            if wanted not in asked:
                raise ReadmeError(f"README's 'Try it' has no `{wanted}`; found {asked}")
        if len(requests) < 3:
            raise ReadmeError(f"README's 'Try it' has {len(requests)} requests by curl; expected at least 3")
        for command in asked:
            if command not in ("make demo", "make run", *requests):
                print(f"not run, it needs GPUs: {command}")
        _demo()
        with _service():
            _follow(requests)
    except ReadmeError as error:
        print(f"readme: {error}", file=sys.stderr)
        return 1
    print(f"README's commands work ({time.monotonic() - started:.0f} s)")
    return 0


def _demo() -> None:
    before = set(ROOT.glob("out/*.mp4"))
    _shell("make demo", ROOT, DEMO_SECONDS)
    made = set(ROOT.glob("out/*.mp4")) - before
    if len(made) != 1:
        raise ReadmeError(f"`make demo` left {len(made)} new videos under out/; expected 1")
    _check_video(made.pop(), remove=True)


@contextmanager
def _service() -> Iterator[None]:
    """Run ``make run`` until it is ready; stop it by Ctrl-C afterwards and check that it leaves no process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            raise ReadmeError(f"port {PORT} is in use, which `make run` needs; stop what listens there") from None
    print("make run", flush=True)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["make", "run"],
            cwd=ROOT,
            env=_environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
            # A shell that runs this program in the background has it ignore Ctrl-C, and so would `make run`.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        left: list[psutil.Process] = []
        try:

            def ready() -> bool:
                if process.poll() is not None:
                    raise ReadmeError(f"`make run` ended by itself:\n{_end(output)}")
                answer = ["curl", "-sf", "--max-time", "5", f"localhost:{PORT}/readyz"]
                return subprocess.run(answer, capture_output=True).returncode == 0

            _until("`make run` is ready", ready, START_SECONDS)
            yield
        finally:
            if process.poll() is None:
                started = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGINT)
                _, left = psutil.wait_procs(started, timeout=STOP_SECONDS)
                for one in left:
                    one.kill()
                process.wait(timeout=STOP_SECONDS)
        if left:
            raise ReadmeError(f"`make run` left {len(left)} processes after Ctrl-C:\n{_end(output)}")


def _follow(requests: list[str]) -> None:
    """Run the requests in their order; the one that shows the task is repeated until the task has succeeded."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for command in requests:
            saved = re.search(r"-o (\S+\.mp4)", command)
            if saved:
                _shell(command, folder, 30)
                _check_video(folder / saved[1])
            elif " -d " in command:
                answer = _shell(command, folder, 30)
                if '"status":"' not in answer.replace(" ", ""):
                    raise ReadmeError(f"`{command}` is not answered by a task: {answer}")
            else:

                def succeeded(command: str = command) -> bool:
                    answer = _shell(command, folder, 30, quiet=True).replace(" ", "")
                    if '"status":"failed"' in answer:
                        raise ReadmeError(f"`{command}` answers {answer}")
                    return '"status":"succeeded"' in answer

                print(command, flush=True)
                _until(f"`{command}` answers succeeded", succeeded, VIDEO_SECONDS)


def _environment() -> dict[str, str]:
    """Return an environment in which nothing of this machine's settings changes what README's reader would get."""
    ours = {"MODEL_PATH", "STORAGE_URI", "REDIS_URL", "REDIS_HOST", "TOTAL_WORKERS", "MAKELEVEL", "MFLAGS"}
    # A Ray cluster of its own, even if another one runs on this machine.
    return {name: value for name, value in os.environ.items() if name not in ours} | {"RAY_ADDRESS": "local"}


def _shell(command: str, folder: Path, seconds: float, *, quiet: bool = False) -> str:
    if not quiet:
        print(command, flush=True)
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ReadmeError(f"`{command}` took more than {seconds:g} s:\n{error.output or ''}") from None
    if done.returncode:
        raise ReadmeError(f"`{command}` failed with status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def _check_video(file: Path, *, remove: bool = False) -> None:
    begin = file.read_bytes()[:12] if file.exists() else b""
    if begin[4:8] != b"ftyp":
        raise ReadmeError(f"{file.name} is no mp4; it begins with {begin!r}")
    if remove:
        file.unlink()


def _until(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ReadmeError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)


def _end(output: IO[str]) -> str:
    output.seek(0)
    return output.read()[-3000:]


if __name__ == "__main__":
    sys.exit(main())
