"""Ask for a tiny video and check that one comes back. Run by `helm test`."""

import json
import os
import sys
import time

import httpx

POLL_SECONDS = 1.0


def main() -> str | None:
    """Submit REQUEST at API_URL; return what went wrong, or None once its video is there."""
    seconds = float(os.environ["TIMEOUT_SECONDS"])
    deadline = time.monotonic() + seconds
    last = ""
    with httpx.Client(base_url=os.environ["API_URL"], timeout=30) as api:
        task = None
        while time.monotonic() < deadline:
            try:
                if task is None:
                    answer = api.post("/generate", json=json.loads(os.environ["REQUEST"]))
                    if answer.status_code == 422:
                        return f"POST /generate refuses smokeTest.request: {answer.text}"
                    task = answer.raise_for_status().json()
                else:
                    task = api.get(f"/generate/{task['task_id']}").raise_for_status().json()
                state = f"task {task['task_id']}: {task['status']} {task['progress']}"
            except httpx.HTTPError as error:
                state = f"the API does not answer yet: {error}"
            if state != last:
                print(state, flush=True)
                last = state
            if task and task["status"] in ("failed", "cancelled"):
                return f"the task {task['status']}: {task['error']}"
            if task and task["status"] == "succeeded":
                return video_problem(api.get(task["video_url"], follow_redirects=True))
            time.sleep(POLL_SECONDS)
    return f"no video after {seconds:g} s (smokeTest.timeoutSeconds); last: {last}"


def video_problem(answer: httpx.Response) -> str | None:
    """Return why an answer is no mp4 file, or None."""
    if answer.status_code != 200:
        return f"GET {answer.url} answered {answer.status_code}: {answer.text[:500]}"
    if answer.content[4:8] != b"ftyp":
        return f"GET {answer.url} answered {len(answer.content)} bytes that are no mp4: {answer.content[:16]!r}"
    print(f"video of {len(answer.content)} bytes", flush=True)
    return None


if __name__ == "__main__":
    sys.exit(main())
