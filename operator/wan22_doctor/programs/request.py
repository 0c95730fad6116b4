"""In the head pod: run one small task through the Service that clients call, and download its video."""

import base64
import json
import struct
import time
import urllib.error
import urllib.request
import zlib
from typing import Any

POLL_SECONDS = 0.3
ENDED = ("succeeded", "failed", "cancelled")


def main(service: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Submit ``body`` and wait at most ``seconds`` for its end; then cancel a task that has not ended."""
    began = time.monotonic()
    found: dict[str, Any] = {"task_id": body["task_id"]}
    status, task = _call("POST", f"{service}/generate", body)
    if status == 422 and any(one.get("field") == "image" for one in task.get("error", {}).get("fields", ())):
        # This model needs an input image.
        status, task = _call("POST", f"{service}/generate", body | {"image": _picture()})
    found["submit_seconds"] = time.monotonic() - began
    if status != 202:
        return found | {"refused": status, "message": _message(task)}
    url = f"{service}/generate/{body['task_id']}"
    while task.get("status") not in ENDED and time.monotonic() - began < seconds:
        time.sleep(POLL_SECONDS)
        status, answer = _call("GET", url)
        if status == 200:
            task = answer
        if "started_seconds" not in found and task.get("started_at"):
            found["started_seconds"] = time.monotonic() - began
    found |= {"status": task.get("status"), "seconds": time.monotonic() - began, "error": task.get("error")}
    found |= {"progress": task.get("progress"), "attempt": task.get("attempt")}
    if task.get("status") not in ENDED:
        _call("DELETE", url)
    elif task.get("status") == "succeeded":
        found |= _video(f"{service}{task['video_url']}")
        found["seconds"] = time.monotonic() - began
    return found


def _call(verb: str, url: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an answer; status 0 and the error if there was none."""
    content = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=verb)
    try:
        with _open(request) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, _parsed(error.read())
    except (OSError, ValueError) as error:
        return 0, {"message": str(getattr(error, "reason", error)) or type(error).__name__}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"message": content[:500].decode(errors="replace")}


def _picture(side: int = 256) -> str:
    """Return a grey PNG as base64."""
    rows = (b"\x00" + b"\x80" * 3 * side) * side
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    written = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + written).decode()


def _video(url: str) -> dict[str, Any]:
    try:
        with _open(urllib.request.Request(url)) as reply:
            content = reply.read()
    except urllib.error.HTTPError as error:
        return {"video_error": f"{error.code}: {_message(_parsed(error.read()))}"}
    except OSError as error:
        return {"video_error": str(getattr(error, "reason", error))}
    if content[4:8] != b"ftyp":
        return {"video_error": f"{len(content)} bytes that are not an mp4"}
    return {"video_bytes": len(content)}


def _open(request: urllib.request.Request) -> Any:
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)


def _message(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str((error or {}).get("message") if isinstance(error, dict) else answer.get("message") or answer)
