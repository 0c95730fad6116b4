"""The objects as the watches last reported them, so that a reconcile does not have to read them."""

from collections.abc import Callable

from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot

Key = tuple[str, str, str]
"""Kind, namespace and name."""


class ObjectCache:
    """Managed RayServices and RayClusters, and the RayClusters that a RayService made.

    Args:
        follows: whether a managed object is this operator's and not that of another one.
    """

    def __init__(self, follows: Callable[[Snapshot], bool] = lambda obj: True) -> None:
        self._follows = follows
        self._objects: dict[Key, Snapshot] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Snapshot | None:
        """Return an object; None if it is not known."""
        return self._objects.get(key)

    def put(self, obj: Snapshot) -> None:
        """Remember an object unless a newer state of it is known; forget it if it is no longer the operator's."""
        if not self._is_own(obj):
            self._objects.pop(obj.key, None)
            return
        known = self._objects.get(obj.key)
        if known is None or known.uid != obj.uid or known.version <= obj.version:
            self._objects[obj.key] = obj

    def is_news(self, obj: Snapshot) -> bool:
        """Return True if an object is the operator's and not known in this state, or was the operator's before."""
        known = self._objects.get(obj.key)
        if known is None:
            return self._is_own(obj)
        return known.uid != obj.uid or known.version < obj.version

    def known(self, kind: str, namespace: str) -> list[Snapshot]:
        """Return the known objects of a kind in a namespace, or in all of them if ``namespace`` is empty."""
        return [obj for obj in self._objects.values() if obj.kind == kind and namespace in ("", obj.namespace)]

    def _is_own(self, obj: Snapshot) -> bool:
        return bool(obj.owner) or (obj.managed and self._follows(obj))

    def remove(self, obj: Snapshot) -> None:
        """Forget an object that was deleted, but not a newer one of the same name."""
        known = self._objects.get(obj.key)
        if known is not None and known.uid == obj.uid:
            del self._objects[obj.key]

    def to_reconcile(self) -> list[Key]:
        """Return the keys of all objects that are reconciled under their own key."""
        return [obj.key for obj in self._objects.values() if obj.managed and reconciled_as(obj) == obj.key]


def reconciled_as(obj: Snapshot) -> Key:
    """Return the key under which an object is reconciled: its own, or that of the RayService that made it."""
    if obj.kind == names.RAY_CLUSTER and obj.owner:
        return names.RAY_SERVICE, obj.namespace, obj.owner
    return obj.key
