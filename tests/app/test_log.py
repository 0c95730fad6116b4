"""What the service logs is to be found in the logs that Ray keeps."""

import subprocess
import sys


def test_a_process_shows_what_it_does_once_and_with_its_place() -> None:
    program = (
        "import logging; from app.log import show_log; show_log(); show_log(); "
        "logging.getLogger('app.gang.gang').info('2 ranks: model 30 s')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith("INFO app.gang.gang: 2 ranks: model 30 s")
