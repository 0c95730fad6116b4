"""Recognises a submission that a client sends again: by Idempotency-Key, or as a retry of the ``openai`` client."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header

from app.tasks.store import Alias, digest

KEY_SECONDS = 24 * 3600.0
"""How long an Idempotency-Key names the task that it made."""
RETRY_SECONDS = 60.0
"""How long a retry finds the task of an equal body. The client's retries end well within it."""


@dataclass(frozen=True)
class Repetition:
    """What a request's headers say about being sent again."""

    key: str | None = None
    """Idempotency-Key."""
    retries: str | None = None
    """x-stainless-retry-count: how often this client has sent the request before. The ``openai`` client counts its
    retries there and sends no Idempotency-Key."""

    def alias(self, body: Mapping[str, Any]) -> Alias | None:
        """Return the name under which the task of this submission, which has this ``body``, can be found again."""
        if self.key is not None:
            return Alias("key:" + hashlib.sha256(self.key.encode()).hexdigest(), KEY_SECONDS, finds=True)
        if self.retries is not None and self.retries.isascii() and self.retries.isdigit():
            # The first try finds nothing: a client may want two videos of one body.
            return Alias("body:" + digest(body), RETRY_SECONDS, finds=int(self.retries) > 0)
        return None


async def _of_headers(
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Chosen by the client. The same key and body find the same task for 24 hours; the same key "
            "with another body is a conflict.",
        ),
    ] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False, max_length=9)] = None,
) -> Repetition:
    return Repetition(idempotency_key, x_stainless_retry_count)


RepetitionOfHeaders = Annotated[Repetition, Depends(_of_headers)]
