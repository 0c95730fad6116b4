"""The Lua steps of the task store: each is one atomic move, in a file named after it."""

from importlib import resources

from app.tasks.keys import Key


def source(name: str) -> str:
    """Return the text of script ``name``, preceded by the table of keys and the functions that all scripts share."""
    folder = resources.files(__package__)
    keys = ", ".join(f"{key.name} = KEYS[1] .. '{key.value}'" for key in Key)
    parts = (folder / "common.lua").read_text(), (folder / f"{name}.lua").read_text()
    return "\n".join((f"local Key = {{ {keys} }}", *parts))
