"""The objects as the watches last showed them, so that a look at one costs no request."""

from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot

Key = tuple[str, str, str]


class Store:
    """Managed RayServices, and all RayClusters that are managed or that a RayService made."""

    def __init__(self) -> None:
        self._objects: dict[Key, Snapshot] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Snapshot | None:
        """Return an object, None where it is not known."""
        return self._objects.get(key)

    def put(self, obj: Snapshot) -> None:
        """Remember an object, unless a newer state of it is known."""
        if not obj.managed and not obj.owner:
            self._objects.pop(obj.key, None)
            return
        known = self._objects.get(obj.key)
        if known is None or known.uid != obj.uid or _version(known) <= _version(obj):
            self._objects[obj.key] = obj

    def drop(self, obj: Snapshot) -> None:
        """Forget an object that is gone."""
        known = self._objects.get(obj.key)
        if known is not None and known.uid == obj.uid:
            del self._objects[obj.key]

    def to_look_at(self) -> list[Key]:
        """Return the keys of all objects that are reconciled on their own."""
        return [obj.key for obj in self._objects.values() if obj.managed and reconciled_as(obj) == obj.key]


def reconciled_as(obj: Snapshot) -> Key:
    """Return the key under which an object is looked at: its own, or that of the RayService it was made for."""
    if obj.kind == names.RAY_CLUSTER and obj.owner:
        return names.RAY_SERVICE, obj.namespace, obj.owner
    return obj.key


def _version(obj: Snapshot) -> int:
    return int(obj.resource_version) if obj.resource_version.isdigit() else 0
