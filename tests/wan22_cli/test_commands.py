"""The commands against a service on loopback, with a leader that is played."""

import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.http.generate_request import GenerateRequest
from app.tasks.store import Started, StoreUnavailableError, Task
from testing.ports import free_port
from testing.waiting import until
from tests.app.media.pictures import encoded
from tests.wan22_cli.conftest import Wan22
from tests.wan22_cli.served import VIDEO, Served, fail, step, succeed

SMALL = ("--width", 64, "--height", 64, "--num-frames", 9, "--num-inference-steps", 4)


def task(served: Served, task_id: str) -> Task:
    found = served.do(served.store.get(task_id))
    assert found
    return found


def test_generate_follows_a_task_and_saves_its_video(served: Served, wan22: Wan22, home: Path) -> None:
    served.lead(step(1), step(4), succeed)
    done = wan22("generate", "a red circle", "--seed", 7, *SMALL, "-o", "out.mp4")
    assert (done.status, done.out) == (0, "out.mp4\n"), done.err
    assert (home / "out.mp4").read_bytes() == VIDEO
    assert [file.name for file in home.iterdir() if "mp4" in file.name] == ["out.mp4"]


def test_every_field_of_a_request_has_an_option(served: Served, wan22: Wan22, home: Path) -> None:
    (home / "first.png").write_bytes(encoded("PNG", (64, 64)))
    values: dict[str, object] = {
        "task_id": "all",
        "negative_prompt": "",
        "width": 64,
        "height": 96,
        "num_frames": 13,
        "num_inference_steps": 5,
        "guidance_scale": 3.5,
        "guidance_scale_2": None,  # This model has no second expert.
        "flow_shift": 2.5,
        "seed": 2**62 + 1,
        "fps": 12,
        "image": "first.png",
    }
    assert {"prompt", *values} == set(GenerateRequest.model_fields)
    options = [
        part for name, value in values.items() if value is not None for part in (f"--{name.replace('_', '-')}", value)
    ]
    done = wan22("generate", "日の出", "--no-wait", "--json", *options)
    assert done.status == 0, done.err
    config = task(served, "all").config.model_dump()
    image = config.pop("image")
    assert (image["format"], image["width"]) == ("PNG", 64)
    assert config == {name: value for name, value in values.items() if name not in ("task_id", "image")} | {
        "prompt": "日の出"
    }
    assert done.json["task_id"] == "all"
    assert wan22("generate", "x", "--guidance-scale-2", 3).status == 2, "the service refuses it for this model"


def test_a_service_that_restarts_costs_nothing(served: Served, wan22: Wan22, home: Path) -> None:
    async def restart(served: Served, _: Started) -> None:
        await served.break_down(connections=3)

    served.lead(step(1), restart, step(2), succeed)
    done = wan22("generate", "a", "--task-id", "kept", *SMALL)
    assert (done.status, done.out) == (0, "kept.mp4\n"), done.err
    assert f"{served.url} does not answer" in done.err
    assert (task(served, "kept").attempt, (home / "kept.mp4").read_bytes()) == (1, VIDEO)


def test_an_answer_that_was_lost_makes_no_second_task(served: Served, wan22: Wan22) -> None:
    served.lost_answers = 2
    served.lead(succeed)
    done = wan22("generate", "a", "--json")
    assert done.status == 0, done.err
    assert [one.task_id for one in served.do(served.store.page(None, 50, None))[0]] == [done.json["task_id"]]
    assert done.json["file"] == f"{done.json['task_id']}.mp4"


def test_a_redis_that_is_away_is_waited_for(served: Served, wan22: Wan22, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, tries = served.store.submit, [1, 2]

    async def away(*arguments: Any, **named: Any) -> object:
        if tries:
            tries.pop()
            raise StoreUnavailableError("away")
        return await submit(*arguments, **named)

    monkeypatch.setattr(served.store, "submit", away)
    monkeypatch.setattr("app.http.errors._RETRY_SECONDS", 0)
    done = wan22("generate", "a", "--no-wait")
    assert done.status == 0
    assert "The task store (Redis) does not answer" in done.err


def test_a_failed_task_says_why(served: Served, wan22: Wan22, home: Path) -> None:
    served.lead(fail)
    done = wan22("generate", "a", "--task-id", "big")
    assert (done.status, done.out) == (1, "")
    assert "Task big has failed (out_of_memory): It does not fit; ask for fewer frames." in done.err
    assert not (home / "big.mp4").exists()
    assert wan22("show", "big", "--json").json["error"]["code"] == "out_of_memory"
    assert "out_of_memory: It does not fit" in wan22("show", "big").out


def test_a_wrong_field_is_named_by_the_service(served: Served, wan22: Wan22) -> None:
    done = wan22("generate", "a", "--width", 63)
    assert (done.status, done.out) == (2, "")
    assert "width: Input should be a multiple of 16 (found '63')" in done.err.replace("found 63", "found '63'")
    found = wan22("generate", "a", "--width", 63, "--json")
    assert (found.status, found.err) == (2, "")
    assert (found.json["error"]["code"], found.json["error"]["fields"][0]["field"]) == ("unprocessable_entity", "width")


def test_a_place_that_cannot_be_written_costs_no_task(served: Served, wan22: Wan22, home: Path) -> None:
    for place in ("nowhere/out.mp4", "."):
        done = wan22("generate", "a", "-o", place)
        assert done.status == 2
        assert "name a file in a folder that exists" in done.err
    assert served.do(served.store.page(None, 50, None))[0] == []


def test_a_time_limit_leaves_the_task(served: Served, wan22: Wan22) -> None:
    done = wan22("generate", "a", "--task-id", "slow", "--timeout", 0)
    assert done.status == 4
    assert "Task slow is queued after 0 s" in done.err
    assert "`wan22 download --wait slow` waits for its video, `wan22 cancel slow` stops it" in done.err
    assert task(served, "slow").status == "queued"


def test_ctrl_c_leaves_the_task(served: Served, home: Path) -> None:
    command = [sys.executable, "-m", "wan22_cli", "generate", "a", "--task-id", "left", "--url", served.url]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{root / 'operator'}:{root}", "PATH": ""},
        # A shell that runs the tests in the background has them ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until("the task is queued", lambda: served.do(served.store.get("left")))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Task left is queued. It goes on" in err
    assert task(served, "left").status == "queued"


def test_download(served: Served, wan22: Wan22, home: Path) -> None:
    wan22("generate", "a", "--task-id", "later", "--no-wait")
    done = wan22("download", "later")
    assert done.status == 1
    assert "is queued and has no video yet; --wait waits for it" in done.err
    served.lead(step(4), succeed)
    assert wan22("download", "later", "--wait", "-o", "a.mp4").out == "a.mp4\n"
    assert wan22("download", "later").out == "later.mp4\n"
    assert (home / "a.mp4").read_bytes() == (home / "later.mp4").read_bytes() == VIDEO
    served.routes._storage.delete_task("later")
    done = wan22("download", "later", "--json")
    assert (done.status, done.json["error"]["code"]) == (3, "gone")


def test_list_shows_the_newest_first(served: Served, wan22: Wan22) -> None:
    assert wan22("list").out == "There are no tasks.\n"
    for name in ("a", "b", "c"):
        wan22("generate", f"prompt [bold]{name}[/]", "--task-id", name, "--no-wait")
    rows = wan22("list").out.splitlines()
    assert [row.split()[0] for row in rows] == ["task", "c", "b", "a"]
    assert "prompt [bold]c[/]" in rows[1]
    page = wan22("list", "--json", "--limit", 2)
    assert [one["task_id"] for one in page.json["tasks"]] == ["c", "b"]
    assert page.json["cursor"]
    assert wan22("list", "--status", "running", "--json").json["tasks"] == []


def test_cancel(served: Served, wan22: Wan22) -> None:
    wan22("generate", "a", "--task-id", "waits", "--no-wait")
    assert wan22("cancel", "waits").out == "Task waits is cancelled.\n"
    done = wan22("cancel", "waits")
    assert (done.status, "Task waits was cancelled already" in done.err) == (1, True)
    assert task(served, "waits").status == "cancelled"
    assert wan22("cancel", "waits", "--delete").out == "Task waits, which was cancelled, is deleted with its files.\n"
    for command in ("cancel", "show", "download"):
        done = wan22(command, "waits")
        assert (done.status, "There is no task 'waits'" in done.err) == (3, True), command


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "a b", "ü"])
def test_a_name_that_no_task_has_is_no_path(served: Served, wan22: Wan22, name: str) -> None:
    done = wan22("show", name, "--json")
    assert (done.status, done.json["error"]["code"]) == (3, "not_found")


def test_ready(served: Served, wan22: Wan22) -> None:
    done = wan22("ready")
    assert (done.status, done.out) == (1, "not ready\nno gang has started yet\n")
    served.do(served.gang())
    done = wan22("ready", "--wait", 20)
    assert (done.status, done.out.splitlines()[0]) == (0, "ready")
    assert "1 of 1" in done.out
    assert wan22("ready", "--json").json["gangs"][0]["id"] == "gang"


def test_a_service_that_is_not_there(wan22: Wan22) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = wan22("list", "--url", url)
    assert (done.status, f"{url} does not answer" in done.err) == (4, True)
    assert "The URL comes from --url or WAN22_URL" in done.err
    done = wan22("generate", "a", "--patience", 0, "--json", WAN22_URL=url)
    assert (done.status, done.json["error"]["code"]) == (4, "no_answer")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(served: Served, wan22: Wan22) -> None:
    assert wan22("list", HTTP_PROXY=f"http://127.0.0.1:{free_port()}", NO_PROXY=None, no_proxy=None).status == 0


def test_a_picture_that_is_too_large_is_refused_at_once(served: Served, wan22: Wan22, home: Path) -> None:
    (home / "large.png").write_bytes(bytes(20 * 2**20))
    done = wan22("generate", "a", "--image", "large.png", "--json")
    assert (done.status, done.json["error"]["code"]) == (2, "request_entity_too_large"), done.err
    (home / "no.png").write_text("this is no picture")
    done = wan22("generate", "a", "--image", "no.png", "--json")
    assert (done.status, done.json["error"]["fields"][0]["field"]) == (2, "image")
    assert wan22("generate", "a", "--image", "missing.png").status == 2


def test_another_server_is_not_taken_for_the_service(wan22: Wan22) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for arguments in (["list"], ["ready"]):
            done = wan22(*arguments, "--url", url)
            assert (done.status, "501" in done.err) == (2, True)
            assert "there is no wan22 service at this URL" in done.err
        server.shutdown()


def test_the_url_comes_from_the_option_the_environment_or_a_file(served: Served, wan22: Wan22, home: Path) -> None:
    wrong = f"http://127.0.0.1:{free_port()}"
    file = home / "wan22" / "config.toml"
    file.parent.mkdir()
    file.write_text(f'url = "{wrong}"\n')
    assert wan22("list", WAN22_URL=wrong).status == 4
    assert wan22("list", "--url", f"{served.url}/", WAN22_URL=wrong).status == 0
    assert f"The URL comes from url in {file}" in wan22("list", WAN22_URL=None).err
    file.write_text(f'url = "{served.url}"\n')
    assert wan22("list", WAN22_URL=None).status == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = 8000", 'found url; allowed is only url = "http://HOST:PORT"'),
        ('key = "a"', "found key; allowed is only url"),
        ("url", "cannot be read: "),
        ('url = "localhost:8000"', "found 'localhost:8000', allowed is http://HOST:PORT"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(wan22: Wan22, home: Path, text: str, says: str) -> None:
    file = home / "wan22" / "config.toml"
    file.parent.mkdir()
    file.write_text(text)
    done = wan22("list", "--json")
    assert done.status == 2
    assert str(file) in done.json["error"]["message"]
    assert says in done.json["error"]["message"]
