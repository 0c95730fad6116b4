"""Where the log of this package goes."""

import logging

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show_log() -> None:
    """Write what this package logs, from INFO on, to standard error, which Ray keeps in the log of each process.

    Without it Python shows warnings alone: Ray and Serve set up their own loggers, and nobody the root logger.
    """
    log = logging.getLogger("app")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
