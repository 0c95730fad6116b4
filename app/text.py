"""Text for messages and logs."""


def first_line(text: object) -> str:
    """Return the first line of ``str(text)``, such as an error; empty if there is none."""
    return (str(text).splitlines() or [""])[0]
