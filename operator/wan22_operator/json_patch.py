"""JSON patches (RFC 6902), as the API server takes them."""

from typing import Any

Patch = list[dict[str, Any]]


def if_unchanged(resource_version: str) -> Patch:
    """Return the operation that makes a patch fail if the object has changed since it was read."""
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": resource_version}]
