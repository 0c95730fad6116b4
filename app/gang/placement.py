"""Reserves places for ranks, one placement group each, so that a gang can grow and shrink rank by rank.

Every question to the cluster's head (Ray's GCS) is asked in a thread. A head that does not answer then delays resizes
alone: the leader's event loop, which renews leases and reports the gang, goes on. Nobody waits for ever: a head that
is silent for too long is an error, and what it makes later is given back.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

_log = logging.getLogger(__name__)

_PINNED_WAIT_SECONDS = 1.0
_ANYWHERE_WAIT_SECONDS = 2.0
_HEAD_SECONDS = 15.0
"""How long the head may take to answer; it normally takes milliseconds."""

# Not asyncio's own threads: those store videos and must not wait behind a silent head.
_threads = ThreadPoolExecutor(8, thread_name_prefix="gcs")

P = ParamSpec("P")
T = TypeVar("T")


class HeadSilentError(Exception):
    """The head of the cluster did not answer in time."""


async def ask_head(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``function`` returns, which asks the head of the cluster, without blocking the event loop.

    Raises:
        HeadSilentError: the head did not answer within _HEAD_SECONDS.
    """
    return await make_at_head(lambda _: None, function, *args, **kwargs)


async def make_at_head(give_back: Callable[[T], Any], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do as ``ask_head`` for a function that makes something; ``give_back`` gets what is made after nobody waits.

    Raises:
        HeadSilentError: the head did not answer within _HEAD_SECONDS.
    """
    asking = _threads.submit(function, *args, **kwargs)
    limit = asyncio.timeout(_HEAD_SECONDS)
    try:
        async with limit:
            return await asyncio.wrap_future(asking)
    except BaseException as error:
        # The thread cannot be interrupted, so the head may still do what it was asked.
        asking.add_done_callback(lambda late: _give_back(late, give_back))
        if isinstance(error, TimeoutError) and limit.expired():
            raise HeadSilentError(
                f"the head of the Ray cluster (GCS) did not answer within {_HEAD_SECONDS:g} s"
            ) from None
        raise


def _give_back(late: "Future[T]", give_back: Callable[[T], Any]) -> None:
    if not late.cancelled() and late.exception() is None:
        give_back(late.result())


def tell_head(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call ``function`` in a thread and do not wait for it; an error is logged."""
    _threads.submit(function, *args, **kwargs).add_done_callback(_log_error)


def _log_error(future: "Future[Any]") -> None:
    if error := future.exception():
        _log.warning("the head of the cluster did not take a request: %s", error)


@dataclass(frozen=True)
class Slot:
    """Room for one rank on one node.

    The leader's own slot is in the placement group that Serve made for the replica, so it is never released here.
    """

    group: PlacementGroup
    node_id: str
    is_leaders: bool = False

    def strategy(self) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=0)

    def release(self) -> None:
        """Give the room back; a rank that still runs in it ends."""
        if not self.is_leaders:
            _remove(self.group)


def leaders_slot() -> Slot:
    """Return the room that Serve reserved for rank 0 next to its leader."""
    group = ray.util.get_current_placement_group()
    if group is None:
        raise RuntimeError("VideoGenerator runs without a placement group; build it with app.serve_app:app")
    return Slot(group, ray.get_runtime_context().get_node_id(), is_leaders=True)


def end(actor: "ActorHandle[Any]") -> None:
    """End an actor's process."""
    tell_head(ray.kill, actor)


async def reserve(
    bundle: dict[str, float],
    count: int,
    near: Sequence[str],
    *,
    elsewhere: bool = True,
    avoid: Collection[str] = (),
) -> list[Slot]:
    """Reserve up to ``count`` slots of the room that is free now: on the nodes ``near`` in order, then on others.

    Args:
        bundle: the resources of one rank.
        count: slots wanted.
        near: ids of the nodes on which the gang already has ranks.
        elsewhere: whether other nodes may be used at all.
        avoid: ids of the nodes that must not be used.

    Returns:
        the slots; fewer than ``count`` if the cluster has no more room. An error releases those reserved before it.
    """
    slots: list[Slot] = []
    nodes = [node for node in near if node not in avoid]
    anywhere = f"!in({','.join(sorted(avoid))})" if avoid else None
    try:
        while len(slots) < count and nodes:
            slot = await _reserve_on(bundle, nodes[0])
            if slot is None:
                nodes.pop(0)
            else:
                slots.append(slot)
        while elsewhere and len(slots) < count:
            # A node found anywhere is filled before the next one is looked for.
            slot = await _reserve_on(bundle, anywhere, _ANYWHERE_WAIT_SECONDS)
            if slot is None:
                break
            slots.append(slot)
            while len(slots) < count and (slot := await _reserve_on(bundle, slot.node_id)):
                slots.append(slot)
    except BaseException:
        release(slots)
        raise
    return slots


async def _reserve_on(bundle: dict[str, float], nodes: str | None, wait: float = _PINNED_WAIT_SECONDS) -> Slot | None:
    """Reserve one slot on ``nodes``: a node's id, or another selector of Ray's labels; None for any node."""
    selector = [{"ray.io/node-id": nodes}] if nodes else None
    group = await make_at_head(_remove, placement_group, [bundle], bundle_label_selector=selector)
    found = None
    try:
        if await ask_head(group.wait, wait):
            table = await ask_head(placement_group_table, group)
            found = Slot(group, table["bundles_to_node_id"][0])
        return found
    finally:
        if found is None:
            _remove(group)


def _remove(group: PlacementGroup) -> None:
    tell_head(remove_placement_group, group)


def release(slots: Iterable[Slot]) -> None:
    """Give the room of all ``slots`` back."""
    for slot in slots:
        slot.release()


async def nodes_needed(bundle: dict[str, float], ranks: int, nodes: set[str]) -> int:
    """Return the smallest number of ``nodes`` whose total resources hold ``ranks`` ranks, ignoring current use."""
    totals = {node["NodeID"]: node["Resources"] for node in await ask_head(ray.nodes) if node["Alive"]}
    room = (min(int(totals.get(node, {}).get(name, 0) / one) for name, one in bundle.items()) for node in nodes)
    fits = itertools.accumulate(sorted(room, reverse=True))
    return next((count for count, total in enumerate(fits, 1) if total >= ranks), len(nodes))


async def live_nodes() -> dict[str, str]:
    """Return the addresses of the nodes that Ray believes alive, by their ids."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in await ask_head(ray.nodes) if node["Alive"]}
