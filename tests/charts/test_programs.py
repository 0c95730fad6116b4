"""The programs that the chart mounts, run against a stand-in for the dashboard and the API."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.charts.conftest import CHART

Answer = tuple[int, object]


class StandIn(ThreadingHTTPServer):
    """Answers each path with what a test laid down, the last one again and again; remembers the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str | None, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = f"{self.command} {self.path}"
        self.server.requests.append((key, self.headers.get("Authorization"), body))
        laid = self.server.answers[key]
        status, answer = laid.pop(0) if len(laid) > 1 else laid[0]
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A server for one test."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHART / "files" / program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def states(**found: str) -> Answer:
    return 200, {"applications": {name: {"status": status, "message": "why"} for name, status in found.items()}}


def deploy(standin: StandIn, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "serveConfigV2").write_text("{}", encoding="utf-8")
    config = str(folder / "serveConfigV2")
    return run("deploy.py", RAY_DASHBOARD_URL=standin.url, SERVE_CONFIG=config, RAY_AUTH_TOKEN="secret", **environment)


def test_deploy_waits_until_the_application_runs(standin: StandIn, tmp_path: Path) -> None:
    standin.answers = {
        "PUT /api/serve/applications/": [(503, "starting"), (200, {})],
        "GET /api/serve/applications/": [states(), states(wan22="DEPLOYING"), states(wan22="RUNNING")],
    }
    done = deploy(standin, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "wan22 RUNNING"
    sent = [request for request in standin.requests if request[0].startswith("PUT")]
    assert sent == [("PUT /api/serve/applications/", "Bearer secret", b"{}")] * 2


@pytest.mark.parametrize(
    ("put", "get", "words"),
    [
        ((400, "bad key"), states(), "refuses the configuration (400)"),
        ((401, "no"), states(), "refuses the configuration (401)"),
        ((200, {}), states(wan22="DEPLOY_FAILED"), "failed to deploy: why"),
        ((200, {}), states(wan22="DEPLOYING"), "not running after 1 s; last: wan22 DEPLOYING"),
    ],
)
def test_deploy_says_why_it_failed(standin: StandIn, tmp_path: Path, put: Answer, get: Answer, words: str) -> None:
    standin.answers = {"PUT /api/serve/applications/": [put], "GET /api/serve/applications/": [get]}
    done = deploy(standin, tmp_path, DEADLINE_SECONDS="1")
    assert done.returncode == 1
    assert words in done.stderr


def task(status: str) -> dict[str, Any]:
    return {"task_id": "a", "status": status, "progress": {"step": 1, "steps": 2}, "error": None, "video_url": "/v"}


@pytest.mark.parametrize(
    ("posted", "last", "video", "code", "words"),
    [
        ((202, task("queued")), "succeeded", b"\0\0\0\x20ftypisom", 0, "video of 12 bytes"),
        ((202, task("queued")), "succeeded", b"<html>", 1, "no mp4"),
        ((202, task("queued")), "failed", b"", 1, "the task failed"),
        ((202, task("queued")), "queued", b"", 1, "no video after 1 s"),
        ((422, "prompt"), "queued", b"", 1, "refuses smokeTest.request"),
    ],
)
def test_smoke_test_wants_a_video(
    standin: StandIn, posted: Answer, last: str, video: bytes, code: int, words: str
) -> None:
    standin.answers = {
        "POST /generate": [(503, "starting"), posted],
        "GET /generate/a": [(200, task(last))],
        "GET /v": [(200, video)],
    }
    seconds = "1" if last == "queued" and posted[0] == 202 else "30"
    done = run("smoke_test.py", API_URL=standin.url, REQUEST='{"prompt": "x"}', TIMEOUT_SECONDS=seconds)
    assert done.returncode == code
    assert words in done.stdout + done.stderr


OBJECT = "/apis/ray.io/v1/namespaces/video/rayservices/wan22"
CLUSTERS = "/apis/ray.io/v1/namespaces/video/rayclusters"


def uninstall(standin: StandIn, folder: Path, seconds: str = "30") -> subprocess.CompletedProcess[str]:
    (folder / "token").write_text("secret", encoding="utf-8")
    command = [sys.executable, str(CHART / "files" / "uninstall.py"), "--kind=RayService", "--name=wan22"]
    return subprocess.run(
        [*command, "--namespace=video", f"--timeout={seconds}"],
        env={"API_SERVER": standin.url, "TOKEN_FILE": str(folder / "token")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def owned(*finalizers: str) -> Answer:
    owner = {"kind": "RayService", "name": "wan22"}
    mine = {"metadata": {"name": "wan22-abc", "ownerReferences": [owner], "finalizers": list(finalizers)}}
    return 200, {"items": [mine, {"metadata": {"name": "somebody-elses"}}]}


def test_uninstall_waits_until_the_clusters_are_gone(standin: StandIn, tmp_path: Path) -> None:
    standin.answers = {
        f"DELETE {OBJECT}": [(500, "busy"), (200, {})],
        f"GET {OBJECT}": [(200, {"kind": "RayService"}), (404, {})],
        f"GET {CLUSTERS}": [owned(), (503, "busy"), owned(), (200, {"items": []})],
    }
    done = uninstall(standin, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "RayService video/wan22 is gone\n"
    deleted = [request for request in standin.requests if request[0].startswith("DELETE")]
    assert deleted == [(f"DELETE {OBJECT}", "Bearer secret", b'{"propagationPolicy": "Foreground"}')] * 2


def test_uninstall_of_what_is_gone_is_done(standin: StandIn, tmp_path: Path) -> None:
    standin.answers = {f"{verb} {OBJECT}": [(404, {})] for verb in ("DELETE", "GET")}
    standin.answers[f"GET {CLUSTERS}"] = [(404, {})]
    assert uninstall(standin, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("deleted", "words"),
    [
        ((200, {}), "RayCluster video/wan22-abc (finalizers: test.example/stuck)"),
        ((403, "forbidden: user"), "the API server refuses (403)"),
        ((500, "busy"), "the API server answers 500"),
    ],
)
def test_uninstall_says_what_is_left(standin: StandIn, tmp_path: Path, deleted: Answer, words: str) -> None:
    standin.answers = {
        f"DELETE {OBJECT}": [deleted],
        f"GET {OBJECT}": [(404, {})],
        f"GET {CLUSTERS}": [owned("test.example/stuck")],
    }
    done = uninstall(standin, tmp_path, seconds="1")
    assert done.returncode == 1
    assert words in done.stderr
