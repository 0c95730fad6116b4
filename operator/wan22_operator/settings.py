"""How the operator is set up: its environment, checked once at start."""

import os
from collections.abc import Mapping
from typing import Self

from pydantic import Field, ValidationError, model_validator

from app.config import ConfigError, StrictModel, explain


class Settings(StrictModel):
    """The operator's environment variables, each by its own name in upper case."""

    watch_namespace: str = ""
    """The one namespace to work in; empty for the whole cluster."""
    pod_name: str = "operator"
    """This replica's name, its identity in the Lease."""
    pod_namespace: str = "default"
    """Where the Lease, the certificate's Secret and the webhook's Service are."""
    lease_name: str = "wan22-operator"
    lease_seconds: float = Field(10, ge=2, le=60)
    """How long a leader that stopped renewing stays the leader."""
    resync_seconds: float = Field(30, ge=1)
    """How often an object is looked at when nothing happens."""
    poll_seconds: float = Field(1, gt=0)
    """How often a resize that is under way is looked at."""
    webhook_enabled: bool = True
    webhook_host: str = "0.0.0.0"
    webhook_port: int = Field(9443, ge=1, le=65535)
    webhook_service: str = "wan22-operator-webhook"
    webhook_url: str = ""
    """Where the API server finds the webhooks, if not by their Service."""
    webhook_secret: str = "wan22-operator-webhook"
    webhook_configuration: str = "wan22-operator"
    """Name of both the mutating and the validating webhook configuration."""
    metrics_port: int = Field(8080, ge=0, le=65535)
    """Port of Prometheus metrics; 0 for none."""
    cluster_domain: str = "cluster.local"

    @model_validator(mode="after")
    def _lease_outlives_poll(self) -> Self:
        if self.poll_seconds > self.resync_seconds:
            raise ValueError("poll_seconds is above resync_seconds; lower POLL_SECONDS")
        return self

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings from ``environ``; an empty variable counts as unset.

        Raises:
            ConfigError: a variable has a value that is not allowed; every such variable is named.
        """
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(f"environment: {explain(error)}") from None
