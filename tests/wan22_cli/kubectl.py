"""Stands in for kubectl: a program that answers from a file of objects and forwards to a service on loopback.

The calls and what they print are those of kubectl 1.32.
"""

import json
import os
import signal
import sys
from pathlib import Path

FOLDER = Path(os.environ["KUBECTL_FOLDER"])


def main() -> int:
    """Answer one call, which is written to the file ``calls``."""
    options = [one for one in sys.argv[1:] if one.startswith("--")]
    verb, *words = [one for one in sys.argv[1:] if not one.startswith("--")]
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{' '.join(sys.argv[1:])}\n")
    if verb == "config":
        print("video", end="")
    elif verb == "port-forward":
        _forward(options)
    elif verb == "get":
        found = json.loads((FOLDER / "objects.json").read_text())
        print(json.dumps({"kind": "List", "items": found} if "," in words[0] else found[0]))
    elif verb == "annotate":
        return _annotate(dict(word.split("=") for word in words[1:]))
    return 0


def _annotate(values: dict[str, str]) -> int:
    if values.get("wan22.dev/total-workers") == "7":
        print(
            'E1127 16:39:13.354583   12439 memcache.go:265] "Unhandled Error"\n'
            'Error from server: admission webhook "validate.wan22.dev" denied the request: found 7',
            file=sys.stderr,
        )
        return 1
    found = json.loads((FOLDER / "objects.json").read_text())
    found[0]["metadata"]["annotations"] |= values
    new = FOLDER / "new.json"
    new.write_text(json.dumps(found))
    new.replace(FOLDER / "objects.json")
    return 0


def _forward(options: list[str]) -> None:
    port = (FOLDER / "port").read_text()
    if not port:
        print("error: timed out waiting for the condition", flush=True)
        sys.exit(1)
    (FOLDER / f"forward-{os.getpid()}").touch()
    print(f"Forwarding from 127.0.0.1:{port} -> 8000", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
