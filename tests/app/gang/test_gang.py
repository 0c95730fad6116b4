"""The order of ranks and their rendezvous; what needs real ranks is tested on the running service."""

from typing import Any, cast

from app.gang.gang import Member, RankSettings, node_by_node, rendezvous_of
from app.gang.placement import Slot
from app.gang.rank import RankPlace


def member(node: str, pid: int, *, leaders: bool = False) -> Member:
    unused = cast(Any, None)
    return Member(unused, Slot(unused, node, is_leaders=leaders), RankPlace(node, f"ip-of-{node}", pid), "native")


def test_ranks_are_numbered_node_by_node_from_the_leaders_own_place() -> None:
    members = [member("b", 1), member("a", 2), member("b", 3), member("a", 4, leaders=True), member("c", 5)]
    assert [one.place.pid for one in node_by_node(members)] == [4, 2, 1, 3, 5]


def test_the_emptiest_node_is_given_up_first() -> None:
    members = [member("x", 1), member("y", 2), member("y", 3), member("home", 4, leaders=True)]
    assert [one.place.node_id for one in node_by_node(members)][-1] == "x"


def test_of_nodes_that_are_alike_the_one_that_joined_last_is_given_up_first() -> None:
    members = [member("home", 1, leaders=True), member("z", 2), member("b", 3), member("c", 4)]
    assert [one.place.node_id for one in node_by_node(members)] == ["home", "z", "b", "c"]


def test_global_ranks_are_unique_and_local_ranks_count_on_each_node() -> None:
    members = node_by_node([member("a", 1, leaders=True), member("a", 2), member("b", 3), member("b", 4)])
    parts = rendezvous_of(members, "10.0.0.1", 4000)
    assert [(part.rank, part.local_rank) for part in parts] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert {(part.world_size, part.master_addr, part.master_port) for part in parts} == {(4, "10.0.0.1", 4000)}


def test_a_rank_reserves_a_gpu_only_where_it_computes_on_one() -> None:
    assert RankSettings("m", "s", "cuda", 1.0).bundle() == {"CPU": 1.0, "GPU": 1.0}
    assert RankSettings("m", "s", "cpu", 0.5).bundle() == {"CPU": 0.5}
