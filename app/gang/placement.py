"""Reserves places for ranks, one placement group each, so that a gang can grow and shrink rank by rank."""

import asyncio
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ray
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


@dataclass(frozen=True)
class Slot:
    """Room for one rank on one node.

    The leader's own slot is in the placement group that Serve made for the replica, and is not ours to give back.
    """

    group: PlacementGroup
    node_id: str
    is_leaders: bool = False

    def strategy(self) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=0)

    def release(self) -> None:
        """Give the room back; a rank that is still there ends."""
        if not self.is_leaders:
            remove_placement_group(self.group)


def leaders_slot() -> Slot:
    """Return the room that Serve reserved for rank 0 beside its leader."""
    group = ray.util.get_current_placement_group()
    if group is None:
        raise RuntimeError("VideoGenerator runs without a placement group; build it with app.serve_app:app")
    return Slot(group, ray.get_runtime_context().get_node_id(), is_leaders=True)


async def reserve(bundle: dict[str, float], count: int, near: Sequence[str], *, elsewhere: bool = True) -> list[Slot]:
    """Reserve up to ``count`` slots from what is free now: on the nodes ``near`` first, in order, then on others.

    Args:
        bundle: the resources of one rank.
        count: slots wanted.
        near: ids of the nodes on which the gang already stands.
        elsewhere: whether other nodes may be used at all.

    Returns:
        the slots, fewer than ``count`` where the cluster has no more room.
    """
    slots: list[Slot] = []
    nodes = list(near)
    while len(slots) < count and nodes:
        slot = await _reserve_on(bundle, nodes[0])
        if slot is None:
            nodes.pop(0)
        else:
            slots.append(slot)
    while elsewhere and len(slots) < count:
        # A node found anywhere is filled before the next one is looked for.
        slot = await _reserve_on(bundle, None)
        if slot is None:
            break
        slots.append(slot)
        while len(slots) < count and (slot := await _reserve_on(bundle, slot.node_id)):
            slots.append(slot)
    return slots


async def _reserve_on(bundle: dict[str, float], node_id: str | None) -> Slot | None:
    selector = [{"ray.io/node-id": node_id}] if node_id else None
    group = placement_group([bundle], bundle_label_selector=selector)
    wait = _PINNED_WAIT_SECONDS if node_id else _ANYWHERE_WAIT_SECONDS
    if await asyncio.to_thread(group.wait, wait):
        table = await asyncio.to_thread(placement_group_table, group)
        return Slot(group, table["bundles_to_node_id"][0])
    remove_placement_group(group)
    return None


def release(slots: Iterable[Slot]) -> None:
    """Give the room of all ``slots`` back."""
    for slot in slots:
        slot.release()


def nodes_needed(bundle: dict[str, float], ranks: int, nodes: set[str]) -> int:
    """Return on how few of ``nodes`` so many ranks would fit if nothing else were there."""
    totals = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    room = (min(int(totals.get(node, {}).get(name, 0) / one) for name, one in bundle.items()) for node in nodes)
    fits = itertools.accumulate(sorted(room, reverse=True))
    return next((count for count, total in enumerate(fits, 1) if total >= ranks), len(nodes))


def live_nodes() -> set[str]:
    """Return the ids of the nodes that Ray believes alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
