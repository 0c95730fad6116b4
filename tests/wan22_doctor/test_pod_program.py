"""The protocol by which programs run in pods."""

import json
import subprocess
import sys

import pytest
from wan22_doctor.pod_program import MARK, START, Output, answer_in, exec_query


def output(*messages: bytes) -> Output:
    made = Output()
    for message in messages:
        made.add(message)
    return made


def test_an_answer_may_arrive_in_parts_and_among_other_lines() -> None:
    received = output(
        b"\x01loading ...\n" + MARK[:5].encode(), b"\x02a warning\n", b"\x01" + MARK[5:].encode() + b'{"a": 1}\n'
    )
    assert received.answer() == {"a": 1}
    assert answer_in("nothing") is None


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([b"\x02Traceback ...\n", b"\x02ImportError: no torch\n", b"\x03{}"], "ImportError: no torch"),
        (
            [b'\x03{"details": {"causes": [{"reason": "ExitCode", "message": "137"}]}}'],
            "python was killed (exit code 137)",
        ),
        ([b'\x03{"details": {"causes": [{"reason": "ExitCode", "message": "2"}]}}'], "python ended with 2"),
        ([b'\x03{"message": "container not found"}'], "container not found"),
        ([b"\x01", b"", b"\x03no JSON"], "python printed nothing"),
    ],
)
def test_without_an_answer_stderr_or_the_kubelet_gives_the_reason(messages: list[bytes], why: str) -> None:
    received = output(*messages)
    assert received.answer() is None
    assert received.why_no_answer() == why


def test_the_request_runs_start_in_the_container() -> None:
    query = exec_query("ray-head")
    assert ("container", "ray-head") in query
    assert [word for key, word in query if key == "command"] == ["python", "-c", START]


def test_start_answers_although_a_thread_of_the_program_hangs() -> None:
    program = (
        "import threading, time\n"
        "def main(name):\n"
        "    threading.Thread(target=time.sleep, args=[600]).start()\n"
        "    print('noise', end='')\n"
        "    return {'hello': name}\n"
    )
    line = json.dumps({"program": program, "arguments": {"name": "pod"}}) + "\n"
    done = subprocess.run([sys.executable, "-c", START], input=line, capture_output=True, text=True, timeout=60)
    assert answer_in(done.stdout) == {"hello": "pod"}, done.stderr
