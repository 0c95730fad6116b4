"""The HTTP API: the requests that a client may send, their checks, and how tasks and errors are shown."""
