"""Tasks, their queue and their leases, in Redis: the only truth about what was accepted."""

from app.task_store.store import Started, StoreUnavailableError, Submission, Task, TaskError, TaskStatus, TaskStore

__all__ = ["Started", "StoreUnavailableError", "Submission", "Task", "TaskError", "TaskStatus", "TaskStore"]
