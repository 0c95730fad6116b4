"""The order of ranks, their rendezvous, and what the answers of ranks mean. tests/service runs real ranks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError

from app.config import ConfigError
from app.gang.gang import (
    Gang,
    GangBrokenError,
    Member,
    Outcome,
    RankSettings,
    Timeouts,
    failure_of_call,
    failure_of_task,
    node_by_node,
    rendezvous_of,
)
from app.gang.placement import Slot
from app.gang.rank import (
    OutOfStepError,
    PeerLostError,
    RankPlace,
    RankState,
    StorageAwayError,
    TaskFailedError,
    VideoNotWrittenError,
)


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


def raised(error: Exception) -> RayTaskError:
    """Return what Ray raises for a call that raised ``error`` on its actor."""
    return RayTaskError("generate", "traceback", error)


DIED = ActorDiedError()
NODE_DIED = ActorDiedError()
NODE_DIED.error_msg = "The actor died unexpectedly. The actor died because its node has died."
TASK_ERROR = TaskFailedError("out_of_memory", "the GPU does not hold this request")
OUT_OF_STEP = OutOfStepError("out_of_memory", "a GPU does not hold this request")
UNWRITTEN = VideoNotWrittenError("video_not_written", "no space left")
AWAY = StorageAwayError("s3://videos does not read a/x.image")


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([Outcome(0, 1), Outcome(1, error=DIED)], "rank 1 of 2 died during model loading, after 3.0 s"),
        ([Outcome(0, late=True), Outcome(1, 1)], "rank 0 of 2 did not answer during model loading, after 3.0 s"),
        (
            [Outcome(0, error=raised(RuntimeError("no route\nto host"))), Outcome(1, late=True)],
            "rank 0 of 2 failed during model loading, after 3.0 s: RuntimeError: no route",
        ),
        (
            [Outcome(0, error=raised(RuntimeError("connection reset"))), Outcome(1, error=DIED)],
            "rank 1 of 2 died during model loading, after 3.0 s",
        ),
        (
            [Outcome(0, error=OutOfMemoryError("memory on the node was low")), Outcome(1, 1)],
            "rank 0 of 2 died during model loading, after 3.0 s",
        ),
    ],
)
def test_a_call_names_the_rank_that_broke_the_gang(outcomes: list[Outcome], message: str) -> None:
    error = failure_of_call(outcomes, "model loading", 3.0)
    assert isinstance(error, GangBrokenError)
    assert str(error).startswith(message)


def test_a_call_that_all_answer_has_no_error_and_a_mistake_of_the_user_is_passed_on() -> None:
    assert failure_of_call([Outcome(0, "native"), Outcome(1, "native")], "model loading", 3.0) is None
    mistake = ConfigError("MODEL_PATH: it does not exist")
    assert failure_of_call([Outcome(0, late=True), Outcome(1, error=mistake)], "model loading", 3.0) is mistake


def test_a_task_that_fails_on_all_ranks_leaves_the_gang_fit() -> None:
    assert failure_of_task([Outcome(0, error=TASK_ERROR), Outcome(1, error=TASK_ERROR)], 9.0) is TASK_ERROR


@pytest.mark.parametrize(
    ("outcomes", "what", "rank", "task_error"),
    [
        ([Outcome(0, error=TASK_ERROR), Outcome(1, late=True)], "failed", 0, TASK_ERROR),
        ([Outcome(0, error=raised(PeerLostError("reset"))), Outcome(1, error=DIED)], "died", 1, None),
        ([Outcome(0, "a/1.mp4"), Outcome(1, error=raised(PeerLostError("reset")))], "failed", 1, None),
        ([Outcome(0, error=TASK_ERROR), Outcome(1, error=raised(PeerLostError("reset")))], "failed", 1, TASK_ERROR),
    ],
)
def test_a_task_that_fails_on_some_ranks_breaks_the_gang(
    outcomes: list[Outcome], what: str, rank: int, task_error: TaskFailedError | None
) -> None:
    error = failure_of_task(outcomes, 9.0)
    assert isinstance(error, GangBrokenError)
    assert (error.what, error.rank, error.ranks, error.task_error) == (what, rank, 2, task_error)


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        ([Outcome(0, error=UNWRITTEN), Outcome(1)], UNWRITTEN),
        ([Outcome(0, error=AWAY), Outcome(1, error=AWAY)], AWAY),
    ],
)
def test_what_fails_outside_a_collective_leaves_the_gang_fit(outcomes: list[Outcome], error: Exception) -> None:
    assert failure_of_task(outcomes, 9.0) is error


def test_ranks_that_are_out_of_step_form_again_though_all_blame_the_task() -> None:
    error = failure_of_task([Outcome(0, error=OUT_OF_STEP), Outcome(1, error=OUT_OF_STEP)], 9.0)
    assert isinstance(error, GangBrokenError)
    assert error.task_error is OUT_OF_STEP


@pytest.mark.parametrize(
    ("death", "blameless"),
    [
        (OutOfMemoryError("the memory monitor chose it"), True),
        (NodeDiedError("gone"), True),
        (NODE_DIED, True),
        (DIED, False),
    ],
)
def test_a_death_that_no_task_causes_is_blameless(death: Exception, blameless: bool) -> None:
    error = failure_of_task([Outcome(0, late=True), Outcome(1, error=death)], 9.0)
    assert isinstance(error, GangBrokenError)
    assert error.blameless is blameless


async def test_a_gang_without_ranks_answers_a_probe_with_nobody() -> None:
    gang = Gang(RankSettings("m", "s", "cpu", 0.5), Timeouts(1, 1, 1))
    assert await gang.states() == []


class _Method:
    """A method of a rank's actor, as the gang calls it."""

    def __init__(self, answer: Callable[..., Awaitable[Any]]) -> None:
        self.remote = answer


class _Actor:
    """A rank that waits in a collective for ever, or a dead one."""

    def __init__(self, *, dead: bool) -> None:
        self._dead = dead
        self.state = _Method(self._state)
        self.generate = _Method(self._generate)

    async def _state(self) -> RankState:
        if self._dead:
            raise DIED
        return RankState("video", 1)

    async def _generate(self, *_: Any) -> None:
        if self._dead:
            raise DIED
        await asyncio.Event().wait()


async def test_a_dead_rank_is_found_at_once_though_the_others_wait_for_it() -> None:
    gang = Gang(RankSettings("m", "s", "cuda", 0.5), Timeouts(60, 60, 60))
    actors = [_Actor(dead=False), _Actor(dead=True)]
    gang.members = [replace(member("a", rank), actor=cast(Any, actor)) for rank, actor in enumerate(actors)]
    async with asyncio.timeout(2):
        with pytest.raises(GangBrokenError, match="rank 1 of 2 died"):
            await gang.generate(cast(Any, None), "video")
