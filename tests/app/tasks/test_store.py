"""The task store against a real server: what is accepted is run once at a time, in order, and ends once."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app.media.storage import video_path
from app.tasks.embedded import EmbeddedRedis, free_port
from app.tasks.keys import Key
from app.tasks.store import (
    MOST_DEATHS,
    Alias,
    Started,
    StoreRefusedError,
    StoreUnavailableError,
    Submission,
    TaskError,
    TaskStatus,
    TaskStore,
    UnreadableTaskError,
)
from testing.records import gang_state, task_config
from testing.waiting import until, until_async

CLUSTER = "this-cluster"


def connect(url: str, **options: Any) -> TaskStore:
    """A store whose lease and queue no test reaches."""
    return TaskStore.connect(url, **{"lease_seconds": 15, "task_ttl_seconds": 60, "max_queued_tasks": 1000, **options})


async def submit(store: TaskStore, *names: str) -> None:
    for name in names:
        assert (await store.submit(name, {}, task_config())).outcome == "created"


async def gangs(store: TaskStore, count: int, cluster: str = CLUSTER, ttl: float = 30) -> None:
    for number in range(count):
        await store.publish_gang(gang_state(f"{cluster}-{number}", cluster), serving=True, ttl_seconds=ttl)


async def take(store: TaskStore, cluster: str = CLUSTER, holder: str = "dispatcher") -> str | None:
    taken = await store.take(cluster, holder)
    return taken[0] if taken else None


async def start(store: TaskStore, task_id: str, holder: str = "leader") -> Started:
    started = await store.start(task_id, CLUSTER, holder, 4)
    assert isinstance(started, Started), started
    return started


async def take_within(store: TaskStore, seconds: float) -> str | None:
    async def poll() -> str:
        while (task_id := await take(store)) is None:
            await store._redis.ping()
        return task_id

    try:
        return await asyncio.wait_for(poll(), seconds)
    except TimeoutError:
        return None


async def lease_ran_out(store: TaskStore, task_id: str) -> bool:
    seconds, _ = await store._redis.time()
    ends = await store._redis.zscore(Key.LEASES.full(), task_id)
    return ends is not None and float(ends) < 1000 * int(seconds)


async def lapse(store: TaskStore, task_id: str) -> None:
    """Let a task's lease end now, as if its leader had not been heard for long."""
    await store._redis.zadd(Key.LEASES.full(), {task_id: 1})


async def status(store: TaskStore, task_id: str) -> TaskStatus:
    task = await store.get(task_id)
    assert task is not None
    return task.status


async def test_the_same_body_finds_the_same_task(store: TaskStore) -> None:
    first = await store.submit("a", {"prompt": "x"}, task_config(seed=1))
    again = await store.submit("a", {"prompt": "x"}, task_config(seed=2))
    assert (first.outcome, again.outcome) == ("created", "exists")
    assert again.task is not None
    assert again.task.config.seed == 1


async def test_another_body_under_the_same_name_is_a_conflict(store: TaskStore) -> None:
    await store.submit("a", {"prompt": "x"}, task_config())
    assert (await store.submit("a", {"prompt": "y"}, task_config())).outcome == "conflict"


async def test_an_alias_finds_the_task_under_any_other_id(store: TaskStore) -> None:
    alias = Alias("key", 60, finds=True)

    async def again(task_id: str, prompt: str = "x", *, chosen: bool = False) -> Submission:
        return await store.submit(task_id, {"prompt": prompt}, task_config(), alias=alias, chosen=chosen)

    assert (await again("a")).outcome == "created"
    found = await again("b")
    assert found.outcome == "exists"
    assert found.task is not None
    assert found.task.task_id == "a"
    assert (await again("b", "y")).outcome == "conflict"
    assert (await again("b", chosen=True)).outcome == "conflict", "a client chose another id"
    assert (await again("a", chosen=True)).outcome == "exists"
    await store.cancel("a")
    await store.forget("a")
    assert (await again("b")).outcome == "created", "the name is free once its task is gone"


async def test_of_many_submissions_of_one_alias_one_makes_a_task(store: TaskStore) -> None:
    alias = Alias("key", 60, finds=True)
    names = [f"t{number}" for number in range(20)]
    calls = (store.submit(name, {}, task_config(), alias=alias, chosen=False) for name in names)
    found = {one.task.task_id for one in await asyncio.gather(*calls) if one.task}
    assert len(found) == len((await store.page())[0]) == 1


async def test_an_alias_that_does_not_find_goes_to_the_new_task(store: TaskStore) -> None:
    for task_id in "ab":
        alias = Alias("key", 60, finds=False)
        assert (await store.submit(task_id, {}, task_config(), alias=alias, chosen=False)).outcome == "created"
    found = await store.submit("c", {}, task_config(), alias=Alias("key", 60, finds=True), chosen=False)
    assert found.task is not None
    assert found.task.task_id == "b"


async def test_an_alias_ends(store: TaskStore) -> None:
    await store.submit("a", {}, task_config(), alias=Alias("key", 0.05, finds=True), chosen=False)

    async def ended() -> bool:
        return not await store._redis.exists(Key.ALIAS.full("key"))

    await until_async("the alias ends", ended)
    again = await store.submit("b", {}, task_config(), alias=Alias("key", 60, finds=True), chosen=False)
    assert again.outcome == "created"


async def test_a_task_knows_its_model_and_the_task_that_it_remixes(store: TaskStore) -> None:
    new = await store.submit("a", {}, task_config(), model="tiny-wan", remixed_from="b")
    assert new.task == await store.get("a")
    assert new.task is not None
    assert (new.task.model, new.task.remixed_from) == ("tiny-wan", "b")


async def test_a_burst_of_submissions_is_accepted_whole(redis_server: EmbeddedRedis, store: TaskStore) -> None:
    wide = connect(redis_server.url)
    outcomes = await asyncio.gather(*(wide.submit(f"t{number}", {}, task_config()) for number in range(500)))
    assert {one.outcome for one in outcomes} == {"created"}
    assert len((await wide.page(limit=1000))[0]) == 500
    await wide.close()


async def test_a_full_queue_accepts_nothing_but_repetitions(store: TaskStore) -> None:
    await submit(store, *(str(number) for number in range(50)))
    assert (await store.submit("one more", {}, task_config())).outcome == "full"
    assert (await store.submit("0", {}, task_config())).outcome == "exists"


async def test_tasks_are_taken_in_order_one_for_each_gang(store: TaskStore) -> None:
    await submit(store, "a", "b", "c")
    assert await take(store) is None, "no gang lives yet"
    await gangs(store, 2)
    assert [await take(store), await take(store), await take(store)] == ["a", "b", None]
    started = await start(store, "a")
    assert await take(store) is None
    await store.succeed(started, "a/1.mp4")
    assert await take(store) == "c"


async def test_a_gang_that_is_silent_gets_no_task(store: TaskStore) -> None:
    await submit(store, "a")
    await gangs(store, 1, ttl=0.05)
    await asyncio.wait_for(_until_no_gang(store), 5)
    assert await take(store) is None


async def _until_no_gang(store: TaskStore) -> None:
    while await store.gangs(CLUSTER):
        pass


async def test_two_racing_dispatchers_never_take_one_task_twice(store: TaskStore) -> None:
    names = [f"t{number}" for number in range(40)]
    await submit(store, *names)
    await gangs(store, 40)
    taken = await asyncio.gather(*(take(store, holder=f"d{number % 2}") for number in range(60)))
    assert sorted(name for name in taken if name) == sorted(names)


async def test_two_racing_leaders_never_run_one_task_at_a_time(store: TaskStore) -> None:
    await submit(store, "a")
    replies = await asyncio.gather(*(store.start("a", CLUSTER, f"leader {number}", 4) for number in range(10)))
    assert sum(isinstance(reply, Started) for reply in replies) == 1
    assert [reply for reply in replies if not isinstance(reply, Started)] == [TaskStatus.RUNNING] * 9


async def test_a_start_whose_answer_was_lost_may_be_repeated(store: TaskStore) -> None:
    await submit(store, "a")
    first = await start(store, "a")
    assert await start(store, "a") == first
    assert first.attempt == 1


@pytest.mark.slow
async def test_after_a_fail_over_that_lost_a_start_one_of_two_leaders_owns_the_task(tmp_path: Path) -> None:
    servers = [EmbeddedRedis(tmp_path / name) for name in ("primary", "replica")]
    for server in servers:
        server.folder.mkdir()
        server.start()
    primary, replica = stores = [connect(server.url) for server in servers]
    await replica._redis.replicaof("127.0.0.1", servers[0].port)
    await submit(primary, "a", "b")

    async def replicated() -> bool:
        return await replica._redis.exists(Key.TASK.full("b")) == 1

    await until_async("the replica has the tasks", replicated)
    # The replica becomes the primary before it hears of a start.
    await replica._redis.replicaof("NO", "ONE")
    for task_id in ("a", "b"):
        old, new = await start(primary, task_id, "old"), await start(replica, task_id, "new")
        assert old.attempt == new.attempt == 1
        assert video_path(task_id, old.attempt, old.token) != video_path(task_id, new.attempt, new.token)
        assert (await replica.beat(old, 1), await replica.beat(new, 1)) == ("lost", "ok")
        assert not await replica.abandon(old, "its gang broke")
        for write in (replica.stop, lambda own: replica.fail(own, TaskError("code", "message"))):
            assert not await write(old)
        if task_id == "a":
            assert not await replica.succeed(old, "old.mp4")
        assert await replica.succeed(new, "new.mp4")
        assert not await replica.succeed(old, "old.mp4"), "whoever comes last"
        task = await replica.get(task_id)
        assert task is not None
        assert task.video == "new.mp4"
    for store in stores:
        await store.close()
    for server in servers:
        server.stop()


async def test_an_ended_or_unknown_task_is_not_started(store: TaskStore) -> None:
    await submit(store, "a")
    await store.succeed(await start(store, "a"), "a/1.mp4")
    assert await store.start("a", CLUSTER, "leader", 4) == TaskStatus.SUCCEEDED
    assert await store.start("b", CLUSTER, "leader", 4) is None


async def test_a_lease_that_ran_out_costs_one_attempt_and_fences_the_old_leader(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await gangs(store, 1)
    assert await take(store) == "a"
    old = await start(store, "a")
    assert await take_within(store, 10) == "a", "back at its old place, before b"
    new = await start(store, "a", "another leader")
    assert new.attempt == 2
    assert await store.beat(old, 3) == "lost"
    assert not await store.succeed(old, "a/1.mp4")
    assert not await store.abandon(old, "late")
    assert await store.succeed(new, "a/2.mp4")
    task = await store.get("a")
    assert task is not None
    assert (task.status, task.video, task.attempt) == (TaskStatus.SUCCEEDED, "a/2.mp4", 2)


@pytest.mark.slow
async def test_a_beat_keeps_the_lease_and_revives_one_that_ran_out_unclaimed(store: TaskStore) -> None:
    await submit(store, "a")
    started = await start(store, "a")
    since = time.monotonic()
    while time.monotonic() < since + 2:
        assert await store.beat(started, 2) == "ok"
        assert not await lease_ran_out(store, "a")
    while not await lease_ran_out(store, "a"):
        assert await status(store, "a") == TaskStatus.RUNNING
    assert await store.beat(started, 3) == "ok"


async def test_nothing_is_claimed_in_the_first_lease_period_after_a_silence(
    store: TaskStore, redis_server: EmbeddedRedis
) -> None:
    await submit(store, "a")
    await gangs(store, 2)
    assert await take(store) == "a"
    started = await start(store, "a")
    os.kill(redis_server.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    until("more than a lease period passes", lambda: time.monotonic() > stopped + 1.5)
    os.kill(redis_server.pid, signal.SIGCONT)
    assert await take(store) is None
    assert await store.beat(started, 1) == "ok"


async def test_a_task_that_loses_too_many_gangs_fails_with_the_reason(store: TaskStore) -> None:
    await submit(store, "a")
    for _ in range(MOST_DEATHS + 1):
        assert await store.abandon(await start(store, "a"), "rank 1 died")
    task = await store.get("a")
    assert task is not None
    assert task.status == TaskStatus.FAILED
    assert task.error is not None
    assert (task.error.code, "rank 1 died" in task.error.message) == ("gang_lost", True)


async def test_deaths_that_no_task_causes_never_fail_it(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await gangs(store, 1)
    for _ in range(3 * MOST_DEATHS):
        assert await take(store) == "a", "it keeps its place"
        assert await store.abandon(await start(store, "a"), "the node's memory was short", blameless=True)
    assert await status(store, "a") == TaskStatus.QUEUED


async def test_a_task_that_loses_two_gangs_goes_behind_the_others(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await gangs(store, 1)
    assert await take(store) == "a"
    await store.abandon(await start(store, "a"), "rank 1 died")
    assert await take(store) == "a", "the first death may be chance"
    await store.abandon(await start(store, "a"), "rank 1 died")
    assert await take(store) == "b"


async def test_a_task_that_stops_two_gangs_at_the_same_point_fails_as_what_it_is(store: TaskStore) -> None:
    await submit(store, "a")
    stalled = "made no progress during generation after step 3"
    for step in ("2", "3", "3"):
        assert await status(store, "a") == TaskStatus.QUEUED
        kind = f"made no progress during generation after step {step}"
        await store.abandon(await start(store, "a"), f"rank 0 of 2 {stalled}", kind=kind)
    task = await store.get("a")
    assert task is not None
    assert task.error is not None
    assert (task.status, task.error.code) == (TaskStatus.FAILED, "no_progress")
    assert stalled in task.error.message


@pytest.mark.parametrize("lost", ["the whole record", "config"])
async def test_a_task_whose_record_is_damaged_keeps_no_other_from_running(
    store: TaskStore, redis_server: EmbeddedRedis, lost: str
) -> None:
    await submit(store, "damaged", "held", "whole")
    await gangs(store, 2)
    async with Redis.from_url(redis_server.url) as client:
        await client.zadd(Key.LEASES.full(), {"held": 1})
        await client.zadd(Key.HELD_BY_CLUSTER.full(CLUSTER), {"held": 1})
        await client.zrem(Key.QUEUE.full(), "held")
        for task_id in ("damaged", "held"):
            if lost == "config":
                await client.hdel(Key.TASK.full(task_id), "config")
            else:
                await client.delete(Key.TASK.full(task_id))
        assert await take(store) == "whole"
        assert await take(store) is None
        assert set(await client.zrange(Key.DAMAGED.full(), 0, -1)) == {b"damaged", b"held"}


async def test_a_task_whose_request_cannot_be_read_fails_with_the_reason(
    store: TaskStore, redis_server: EmbeddedRedis
) -> None:
    await submit(store, "a")
    async with Redis.from_url(redis_server.url) as client:
        await client.hset(Key.TASK.full("a"), "config", '{"prompt": 5}')
        assert await store.start("a", CLUSTER, "leader", 4) == TaskStatus.FAILED
        assert await client.hget(Key.TASK.full("a"), "error_code") == b"damaged_record"


async def test_a_request_that_an_older_release_stored_can_be_run(store: TaskStore, redis_server: EmbeddedRedis) -> None:
    await submit(store, "a")
    old = task_config().model_dump(exclude={"flow_shift"})
    async with Redis.from_url(redis_server.url) as client:
        await client.hset(Key.TASK.full("a"), "config", json.dumps(old))
    assert (await start(store, "a")).config.flow_shift is None


async def test_a_leader_that_was_unheard_goes_on_if_nobody_else_has_begun(store: TaskStore) -> None:
    await submit(store, "a")
    await gangs(store, 1)
    started = await start(store, "a")
    await lapse(store, "a")
    assert await take(store) == "a", "it is on its way to another gang"
    assert await store.beat(started, 3) == "ok"
    assert await store.start("a", CLUSTER, "other", 4) == TaskStatus.RUNNING
    assert await store.succeed(started, "a/1.mp4")


async def test_a_video_counts_though_its_lease_expired_unless_another_attempt_has_begun(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await gangs(store, 2)
    for task_id, overtaken in (("a", False), ("b", True)):
        started = await start(store, task_id)
        await lapse(store, task_id)
        assert await take(store) == task_id
        if overtaken:
            await start(store, task_id, "other")
        assert await store.succeed(started, f"{task_id}/1.mp4") is not overtaken


async def test_a_state_that_does_not_change_is_written_once(store: TaskStore, redis_server: EmbeddedRedis) -> None:
    async def written() -> int:
        return int((await client.info("persistence"))["aof_current_size"])

    state = gang_state("gang", CLUSTER, message="x" * 10_000)
    async with Redis.from_url(redis_server.url) as client:
        await store.publish_gang(state, serving=True, ttl_seconds=30)
        before = await written()
        for _ in range(10):
            await store.publish_gang(state, serving=True, ttl_seconds=30)
        assert await written() - before < 5_000
        await client.delete(Key.GANG.full("gang"))
        await store.publish_gang(state, serving=True, ttl_seconds=30)
    assert await store.gangs(CLUSTER) == [state], "a server that lost it gets it again"


async def test_a_gang_that_died_is_forgotten(store: TaskStore, redis_server: EmbeddedRedis) -> None:
    await store.publish_gang(gang_state("dead", CLUSTER), serving=True, ttl_seconds=0.001)

    async def is_gone() -> bool:
        return await store.gangs(CLUSTER) == []

    await until_async("the gang's publication has ended", is_gone)
    await store.publish_gang(gang_state("alive", CLUSTER), serving=True, ttl_seconds=30)
    async with Redis.from_url(redis_server.url) as client:
        assert await client.zrange(Key.GANGS.full(CLUSTER), 0, -1) == [b"alive"]


async def test_only_a_submission_to_an_empty_queue_wakes_the_dispatchers(
    store: TaskStore, redis_server: EmbeddedRedis
) -> None:
    async with Redis.from_url(redis_server.url) as client, client.pubsub() as channel:
        await channel.subscribe(Key.WAKE.full())
        assert await channel.get_message(timeout=5)
        await submit(store, "a", "b", "c")
        assert await channel.get_message(ignore_subscribe_messages=True, timeout=5)
        assert await channel.get_message(ignore_subscribe_messages=True, timeout=0.2) is None


async def test_only_an_unstarted_task_can_be_given_back(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await gangs(store, 2)
    assert [await take(store), await take(store)] == ["a", "b"]
    started = await start(store, "b")
    await store.give_back("a", "dispatcher")
    await store.give_back("b", "dispatcher")
    assert await take(store) == "a"
    assert await store.beat(started, 1) == "ok"


async def test_a_queued_task_is_cancelled_at_once(store: TaskStore) -> None:
    await submit(store, "a", "b")
    await store.cancel("a")
    assert await status(store, "a") == TaskStatus.CANCELLED
    await gangs(store, 1)
    assert await take(store) == "b"


async def test_a_running_task_hears_of_its_cancellation(store: TaskStore) -> None:
    await submit(store, "a")
    started = await start(store, "a")
    await store.cancel("a")
    assert await store.beat(started, 1) == "cancel"
    assert await store.stop(started)
    assert await status(store, "a") == TaskStatus.CANCELLED


async def test_a_cancelled_task_whose_leader_dies_is_not_run_again(store: TaskStore) -> None:
    await submit(store, "a")
    started = await start(store, "a")
    await store.cancel("a")
    await store.abandon(started, "rank 0 died")
    assert await status(store, "a") == TaskStatus.CANCELLED


async def test_an_ended_task_cannot_be_cancelled(store: TaskStore) -> None:
    await submit(store, "a")
    await store.fail(await start(store, "a"), TaskError("generation_failed", "no"))
    task = await store.cancel("a")
    assert task is not None
    assert (task.status, task.error) == (TaskStatus.FAILED, TaskError("generation_failed", "no"))


async def test_tasks_are_listed_newest_first_in_pages(store: TaskStore) -> None:
    await submit(store, *"abcde")
    page, cursor = await store.page(limit=2)
    rest, end = await store.page(limit=10, before=cursor)
    assert [task.task_id for task in (*page, *rest)] == list("edcba")
    assert end is None
    page, cursor = await store.page(limit=2, oldest_first=True)
    rest, end = await store.page(limit=10, before=cursor, oldest_first=True)
    assert [task.task_id for task in (*page, *rest)] == list("abcde")
    assert end is None
    await store.cancel("c")
    listed, _ = await store.page(TaskStatus.CANCELLED)
    assert [task.task_id for task in listed] == ["c"]


async def test_a_list_goes_on_after_a_task_that_is_gone(store: TaskStore) -> None:
    await submit(store, *"abc")
    place = await store.place("b")
    await store.cancel("b")
    await store.forget("b")
    assert await store.place("b") == place
    assert [task.task_id for task in (await store.page(before=place))[0]] == ["a"]
    assert await store.place("d") is None


async def test_only_ended_tasks_are_forgotten(redis_server: EmbeddedRedis, store: TaskStore) -> None:
    brief = connect(redis_server.url, task_ttl_seconds=0.01)
    await submit(brief, "a", "b")
    await brief.stop(await start(brief, "a"))
    expired: list[str] = []
    while not expired:
        expired = await brief.expired()
    assert expired == ["a"]
    assert await brief.expired() == [], "the one that was given it has a while for its files"
    assert (await brief.submit("a", {}, task_config())).outcome == "exists", "its files are still there"
    await brief.forget("a")
    assert await brief.get("a") is None
    assert [task.task_id for task in (await brief.page())[0]] == ["b"]
    await brief.close()


async def test_a_video_is_kept_for_a_time_of_its_own(redis_server: EmbeddedRedis, store: TaskStore) -> None:
    brief = connect(redis_server.url, task_ttl_seconds=0.01, video_ttl_seconds=60)
    await submit(brief, "a", "b")
    assert await brief.succeed(await start(brief, "a"), "a/1.mp4")
    await brief.stop(await start(brief, "b"))
    expired: list[str] = []
    while not expired:
        expired = await brief.expired()
    assert expired == ["b"]
    await brief.close()
    short = connect(redis_server.url, task_ttl_seconds=60, video_ttl_seconds=0.01)
    await submit(short, "c", "d")
    assert await short.succeed(await start(short, "c"), "c/1.mp4")
    await short.stop(await start(short, "d"))
    expired = []
    while not expired:
        expired = await short.expired()
    assert expired == ["c"]
    await short.close()


async def test_the_newest_complete_release_takes_and_the_old_one_drains(store: TaskStore) -> None:
    await submit(store, "a", "b", "c")
    await gangs(store, 1, "old")
    await store.keep_epoch("old", complete=True, ttl_seconds=30)
    assert await take(store, "old") == "a"
    await gangs(store, 1, "new")
    assert await store.keep_epoch("new", complete=False, ttl_seconds=30) == 0
    assert await take(store, "new") is None, "a release that is not complete burns no task"
    assert await store.keep_epoch("new", complete=True, ttl_seconds=0.2) == 2
    old = await start(store, "a")
    await store.succeed(old, "a/1.mp4")
    assert await take(store, "old") is None
    assert await take(store, "new") == "b"


async def test_the_old_release_goes_on_when_the_new_one_dies_and_never_overtakes_it(store: TaskStore) -> None:
    await submit(store, "a", "b")
    for number, cluster in enumerate(("old", "new"), 1):
        await gangs(store, 1, cluster)
        assert await store.keep_epoch(cluster, complete=True, ttl_seconds=0.2 if cluster == "new" else 30) == number

    async def lapsed() -> str:
        while (task_id := await take(store, "old")) is None:
            await store._redis.ping()
        return task_id

    assert await asyncio.wait_for(lapsed(), 5) == "a"
    assert await store.keep_epoch("new", complete=True, ttl_seconds=30) == 2
    assert await store.keep_epoch("old", complete=True, ttl_seconds=30) == 1
    assert await take(store, "old") is None
    assert await take(store, "new") == "b"


async def test_every_accepted_task_survives_a_crash_of_the_server(tmp_path: Any) -> None:
    server = EmbeddedRedis(tmp_path).start()
    store = connect(server.url)
    await submit(store, "a", "b")
    started = await start(store, "a")
    server.kill()
    with pytest.raises(StoreUnavailableError):
        await store.submit("c", {}, task_config())
    server.start()
    assert await store.beat(started, 2) == "ok"
    await gangs(store, 2)
    assert await take(store) == "b"
    await store.close()
    server.stop()


async def test_a_lock_is_held_by_one_at_a_time(store: TaskStore) -> None:
    async with store.lock("placement", hold_seconds=5, wait_seconds=1):
        with pytest.raises(TimeoutError):
            async with store.lock("placement", hold_seconds=5, wait_seconds=0.05):
                pass
    async with store.lock("placement", hold_seconds=5, wait_seconds=0.05):
        pass


async def test_a_new_task_wakes_the_dispatchers(store: TaskStore) -> None:
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in store.wakeups():
            heard.set()

    listening = asyncio.create_task(listen())
    for number in range(100):
        await submit(store, f"t{number}") if number < 50 else None
        if heard.is_set():
            break
    await asyncio.wait_for(heard.wait(), 5)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("config", "{}"), ("config", "no JSON"), ("status", "lost"), ("seq", "x"), ("created_at", None)],
)
async def test_a_record_that_cannot_be_read_is_left_out_of_a_list(
    store: TaskStore, field: str, value: str | None
) -> None:
    await submit(store, "a", "b", "c", "d")
    for name in ("b", "c"):
        if value is None:
            await store._redis.hdel(Key.TASK.full(name), field)
        else:
            await store._redis.hset(Key.TASK.full(name), field, value)
    tasks, _ = await store.page()
    assert [task.task_id for task in tasks] == ["d", "a"]
    with pytest.raises(UnreadableTaskError, match="task 'b': "):
        await store.get("b")
    seen, before = [], None
    for _ in range(4):
        tasks, before = await store.page(limit=1, before=before)
        seen += [task.task_id for task in tasks]
    assert (seen, before) == (["d", "a"], None), "a page without a readable task has a next page"


async def test_releases_with_prefixes_of_their_own_share_a_server(
    redis_server: EmbeddedRedis, store: TaskStore
) -> None:
    prod = connect(redis_server.url, prefix="wan22:prod:", release="video/prod")
    staging = connect(redis_server.url, prefix="wan22:staging:", release="video/staging")
    for one in (prod, staging):
        await gangs(one, 1)
        assert await one.keep_epoch(CLUSTER, complete=True, ttl_seconds=60) == 1
    await submit(prod, "a")
    assert await take(staging) is None
    assert await staging.page() == ([], None)
    assert await take(prod) == "a"
    for one in (prod, staging):
        await one.close()


@pytest.mark.usefixtures("store")
async def test_another_release_with_the_same_prefix_is_refused_by_name(redis_server: EmbeddedRedis) -> None:
    stores = {
        name: connect(redis_server.url, prefix="wan22:shared:", release=name)
        for name in ("video/prod", "video/staging", "")
    }
    await stores["video/prod"].submit("a", {}, task_config())
    for name in ("video/staging", ""):
        for call in (stores[name].claim(), stores[name].submit("b", {}, task_config()), stores[name].get("a")):
            with pytest.raises(StoreRefusedError, match=r"wan22:shared:\*.*'video/prod'.*redis\.keyPrefix") as refusal:
                await call
            assert f"this is release {name!r}" in str(refusal.value)
    await stores["video/prod"].claim()
    for store in stores.values():
        await store.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cluster-enabled", "yes", "--cluster-port", str(free_port())), "runs in cluster mode"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "evicts keys .*allkeys-lru.* noeviction"),
    ],
    ids=["cluster", "eviction"],
)
async def test_a_server_that_cannot_keep_tasks_is_refused_by_name(options: tuple[str, ...], message: str) -> None:
    server = EmbeddedRedis(options=options).start()
    store = connect(server.url)
    with pytest.raises(StoreRefusedError, match=message):
        await store.submit("a", {}, task_config())
    await store.close()
    server.stop()


@pytest.mark.usefixtures("store")
async def test_a_user_of_the_server_with_few_rights_is_enough(redis_server: EmbeddedRedis) -> None:
    admin = Redis.from_url(redis_server.url)
    await admin.acl_setuser(
        "app",
        enabled=True,
        passwords=["+geheim"],
        keys=["wan22:*"],
        channels=["wan22:*"],
        commands=["+@all", "-@dangerous", "-@admin"],
    )
    url = redis_server.url.replace("redis://", "redis://app:geheim@")
    store = connect(url, release="video/acl")
    await submit(store, "a")
    await store.close()
    await admin.acl_deluser("app")
    await admin.aclose()
