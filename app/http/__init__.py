"""The HTTP API: what a client may ask for, how its request is checked, and how tasks and errors are shown to it."""
