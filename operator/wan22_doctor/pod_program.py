"""The protocol by which a file of ``programs`` is run in a pod, through the API server's ``exec``. Pure.

1. ``exec`` starts ``python -c START`` in the container. START is short, because it travels in the URL.
2. The doctor sends one line of JSON to its stdin: the program's source, and the arguments of its ``main``. So the pod
   needs no shell, no file and nothing of this package.
3. START calls ``main`` and prints one line: MARK, then the JSON of what ``main`` returned. Libraries may print before.
4. START ends the process at once, so that threads of the program which hang do not keep it alive.
5. The connection closes. If no line has MARK, stderr or, failing that, the kubelet's status tells why.

On the websocket (subprotocol ``v4.channel.k8s.io``), the first byte of each message is its channel.
"""

import json
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.resources import files

from wan22_operator.api_server import json_object

from wan22_doctor.facts import Json, short

MARK = "wan22-doctor-answer:"
"""Begins the line of stdout that holds the answer."""
START = (
    "import json,os,sys\n"
    "asked=json.loads(sys.stdin.readline())\n"
    "scope={'__name__':'wan22_doctor_program'}\n"
    "exec(compile(asked['program'],'wan22-doctor','exec'),scope)\n"
    f"print('\\n{MARK}'+json.dumps(scope['main'](**asked['arguments'])),flush=True)\n"
    "os._exit(0)"
)


class Channel(IntEnum):
    """First byte of a message on the websocket."""

    STDIN = 0
    """From the doctor to the program."""
    STDOUT = 1
    """What the program prints."""
    STDERR = 2
    """What the program prints to stderr."""
    STATUS = 3
    """How the process ended: a Kubernetes Status as JSON, from the kubelet."""


def exec_query(container: str) -> list[tuple[str, str]]:
    """Return the query of the ``exec`` request that runs START in a container."""
    streams = [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
    return [("container", container), *streams, *(("command", word) for word in ("python", "-c", START))]


def request_line(program: str, arguments: Json) -> str:
    """Return the line for START's stdin that runs a file of ``programs``, named without its ``.py``."""
    source = files("wan22_doctor").joinpath("programs", f"{program}.py").read_text(encoding="utf-8")
    return json.dumps({"program": source, "arguments": arguments}) + "\n"


@dataclass
class Output:
    """All that a program has sent so far, by channel."""

    received: dict[int, bytes] = field(default_factory=dict)

    def add(self, message: str | bytes) -> None:
        """Add one message of the websocket."""
        data = message.encode() if isinstance(message, str) else message
        if data:
            self.received[data[0]] = self.received.get(data[0], b"") + data[1:]

    def answer(self) -> Json | None:
        """Return the answer of ``main``; None if it did not return."""
        return answer_in(self._text(Channel.STDOUT))

    def why_no_answer(self) -> str:
        """Return the last line of stderr or, if it is empty, how the kubelet describes the end of the process."""
        if lines := self._text(Channel.STDERR).strip().splitlines():
            return lines[-1]
        status = json_object(self.received.get(Channel.STATUS, b"")) or {}
        causes = (status.get("details") or {}).get("causes") or ()
        codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
        if codes:
            return f"python was killed (exit code {codes[0]})" if codes[0] > 128 else f"python ended with {codes[0]}"
        return short(str(status.get("message") or "python printed nothing"))

    def _text(self, channel: Channel) -> str:
        return self.received.get(channel, b"").decode(errors="replace")


def answer_in(output: str) -> Json | None:
    """Return the program's answer from the lines of its stdout; None if no line has MARK."""
    answers = [line[len(MARK) :] for line in output.splitlines() if line.startswith(MARK)]
    return json.loads(answers[-1]) if answers else None
