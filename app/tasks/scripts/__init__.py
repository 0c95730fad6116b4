"""The Lua steps of the task store: each is one atomic move, in a file of its own name."""

from importlib import resources


def source(name: str) -> str:
    """Return the text of script ``name`` with what all scripts share put before it."""
    folder = resources.files(__package__)
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
