"""Lists all objects now and then: a watch may miss an event, and it never tells what was deleted while it was away.

kopf looks once, at start, for the types that it watches. If KubeRay's types are installed later, the process ends, so
that the kubelet starts it again and kopf finds them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from wan22_operator import constants as names
from wan22_operator.kube import Kube
from wan22_operator.object_cache import ObjectCache
from wan22_operator.snapshots import Snapshot

RETRY_SECONDS = 2.0

log = logging.getLogger(__name__)


class Relist:
    """Brings the cache up to date with what the API server lists.

    Args:
        namespaces: those to list; an empty text for all of them.
        saw: called with each object that the watches have not reported, and with True if it was deleted.
        seconds: the time between two lists.
        restart: called when objects can be listed that could not be listed at start.
    """

    def __init__(
        self,
        kube: Kube,
        cache: ObjectCache,
        *,
        namespaces: Sequence[str],
        saw: Callable[[Snapshot, bool], None],
        seconds: float,
        restart: Callable[[], None],
    ) -> None:
        self._kube, self._cache, self._namespaces = kube, cache, namespaces
        self._saw, self._seconds, self._restart = saw, seconds, restart
        self._listed = float("-inf")
        self._why = "its objects have not been listed yet"
        self._blind_at_start = False

    @property
    def blind(self) -> str:
        """Why the operator does not see its objects; empty if it does."""
        return self._why if monotonic() - self._listed > 3 * self._seconds else ""

    async def start(self) -> None:
        """List once, before kopf looks for the types that it watches."""
        self._blind_at_start = not await self._try()

    async def run(self) -> None:
        """List until cancelled."""
        done = not self._blind_at_start
        while True:
            await asyncio.sleep(self._seconds if done else RETRY_SECONDS)
            done = await self._try()
            if done and self._blind_at_start:
                log.warning("objects can be listed now; starting again in order to watch them")
                self._restart()
                self._blind_at_start = False

    async def _try(self) -> bool:
        try:
            for kind in names.PLURALS:
                for namespace in self._namespaces:
                    await self.look(kind, namespace)
        except Exception as error:
            self._why = f"listing objects failed: {error or repr(error)}"
            log.warning("%s; trying again", self._why)
            return False
        self._listed = monotonic()
        return True

    async def look(self, kind: str, namespace: str) -> None:
        """List the objects of one kind, and tell what the watches have not told.

        Raises:
            LookupError: the API server does not know the kind.
        """
        version, listed = await self._kube.list_objects(kind, namespace)
        for obj in listed:
            if self._cache.is_news(obj):
                self._saw(obj, False)
        there = {obj.key for obj in listed}
        for obj in self._cache.known(kind, namespace):
            if obj.key not in there and obj.version <= version:
                log.info("%s %s/%s is gone; no watch told so", *obj.key)
                self._saw(obj, True)
