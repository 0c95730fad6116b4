"""Every key of the task store in Redis: its type, its content, the script that writes it and the end of its life.

The scripts see the same names as a Lua table: ``Key.QUEUE``, and ``Key.TASK .. id`` if a name ends with a colon.
Times in scores are milliseconds since the epoch by Redis' clock; times in a task's hash are seconds by the caller's.
"""

from enum import StrEnum

PREFIX = "wan22:"
"""Before every key, unless the store is given another prefix (REDIS_PREFIX)."""


class Key(StrEnum):
    """A key after the prefix; a name that ends with a colon is followed by an id."""

    # The prefix itself

    OWNER = "owner"
    """String: the release whose keys these are. ``claim`` writes it once; lives for ever."""

    # Tasks

    TASK = "task:"
    """Hash of one task, by its id. ``submit`` writes task_id, digest (of the body), config (JSON), created_at, seq,
    status, attempt, deaths, step, steps, and model and remixed_from if they are known; ``take`` and ``start`` cluster
    and holder; a lost attempt deaths, last_end (its kind) and place (in the queue, if not by seq); ``start``
    started_at and token (random; it fences the attempt together with its number); ``beat`` step; ``cancel`` cancel (1);
    a task's end finished_at and video, or error_code and error_message. Lives until ``forget``."""
    ALIAS = "alias:"
    """String: the id of the task that a repeated submission finds, by ``Alias.name``. ``submit`` writes; ends by its
    TTL."""
    SEQUENCE = "seq"
    """Counter: how many tasks were accepted; ``submit`` gives the next number to a task. Lives for ever."""
    TASKS = "tasks"
    """Sorted set of all task ids by seq. ``submit`` adds, ``forget`` removes."""
    TASKS_BY_STATUS = "tasks:"
    """Sorted set of the ids of the tasks in one status, by seq. Every move of a task keeps it; ``forget`` removes."""
    QUEUE = "queue"
    """Sorted set of the ids of tasks that wait, by seq. ``submit`` and a lost lease add; ``take``, ``start`` and a
    task's end remove."""
    LEASES = "leases"
    """Sorted set of the ids of tasks that a dispatcher or a leader holds, by the end of the lease. ``take``, ``start``
    and ``beat`` write; a task's end and a lost lease remove."""
    HELD_BY_CLUSTER = "out:"
    """Sorted set as LEASES, of the tasks held in one cluster: ``take`` compares it with that cluster's gangs."""
    ENDED = "ended"
    """Sorted set of the ids of ended tasks, by the time from which ``expired`` returns them; ``forget`` removes."""

    FORGOTTEN = "forgotten:"
    """String: the seq of a task that is gone, by its id, so that a list can go on after it. ``forget`` writes; ends by
    its TTL."""
    DAMAGED = "damaged"
    """Sorted set of the ids of tasks whose record was gone or incomplete when ``take`` met it, by that time. Lives for
    ever, for an operator to look at."""

    # Gangs and releases

    GANG = "gang:"
    """String: state of one gang (JSON), by its id. ``publish_gang`` writes; ends by its TTL or ``retire_gang``."""
    GANGS = "members:"
    """Sorted set of the ids of one cluster's gangs, by the end of their publication. ``publish_gang`` writes,
    ``retire_gang`` and, once it has ended, any later ``publish_gang`` removes."""
    SERVING_GANGS = "gangs:"
    """Sorted set as GANGS, of the gangs that take tasks. ``take`` removes those that were not published in time."""
    EPOCH = "epoch"
    """Counter: the newest release's epoch. ``keep_epoch`` writes. Lives for ever."""
    EPOCHS = "epochs"
    """Sorted set of clusters by epoch. ``keep_epoch`` writes and keeps the newest 100."""
    ALIVE = "alive:"
    """String: exists while the release in one cluster lives. ``keep_epoch`` writes; ends by its TTL."""

    # Dispatchers

    TICK = "tick"
    """String: time of a recent ``take``, which writes it once it is older than a tenth of a lease. Lives for ever."""
    GRACE = "grace"
    """String: time until which ``take`` reclaims no lease, after a silence. Lives for ever."""
    WAKE = "wake"
    """Channel: a message says that a task may be ready to take. Nothing is stored."""
    LOCK = "lock:"
    """String: a lock by its name, as redis-py's ``Lock`` writes it. Ends when it is released or by its TTL."""

    def full(self, name: str = "", prefix: str = PREFIX) -> str:
        """Return the whole key, with ``name`` after it."""
        return f"{prefix}{self.value}{name}"
