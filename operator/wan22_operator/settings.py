"""The operator's settings: its environment variables, checked once at start."""

import os
from collections.abc import Mapping
from typing import Self

from pydantic import Field, ValidationError, model_validator

from app.config import ConfigError, StrictModel, explain
from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot


class Settings(StrictModel):
    """The operator's environment variables; each field is read from the variable of its name in upper case."""

    watch_namespace: str = ""
    """The namespaces to work in, separated by commas; empty for the whole cluster."""
    pod_name: str = "operator"
    """Name of this replica and its identity in the Lease; two replicas of the same name would both lead."""
    pod_namespace: str = "default"
    """Namespace of the Lease, of the certificate's Secret and of the webhooks' Service."""
    lease_name: str = names.OPERATOR
    """Name of the Lease, and of this operator in the label ``wan22.dev/operator``."""
    lease_seconds: int = Field(10, ge=2, le=60)
    """How long a replica that stopped renewing the Lease stays the leader. A Lease holds whole seconds only."""
    resync_seconds: float = Field(30, ge=1)
    """How often an object is reconciled when nothing happens."""
    relist_seconds: float = Field(60, ge=1)
    """How often all objects are listed, in case a watch has missed an event."""
    poll_seconds: float = Field(1, gt=0)
    """How often an object is reconciled while it is being resized."""
    webhook_enabled: bool = True
    webhook_patience_seconds: float = Field(30, ge=0)
    """How long the webhooks may stay away until the operator writes specs itself."""
    webhook_host: str = "0.0.0.0"
    webhook_port: int = Field(9443, ge=1, le=65535)
    webhook_service: str = names.WEBHOOK
    webhook_url: str = ""
    """URL at which the API server reaches the webhooks; empty if it reaches them by their Service."""
    webhook_secret: str = names.WEBHOOK
    webhook_configuration: str = names.OPERATOR
    """Name of both the mutating and the validating webhook configuration."""
    metrics_port: int = Field(8080, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 for none."""

    @model_validator(mode="after")
    def _poll_is_not_slower_than_resync(self) -> Self:
        if self.poll_seconds > self.resync_seconds:
            raise ValueError(
                f"poll_seconds is {self.poll_seconds:g}, allowed is at most resync_seconds, which is "
                f"{self.resync_seconds:g}; lower POLL_SECONDS or raise RESYNC_SECONDS"
            )
        return self

    @property
    def namespaces(self) -> list[str]:
        """The namespaces to work in; one empty text for the whole cluster."""
        return [name.strip() for name in self.watch_namespace.split(",")]

    def follows(self, obj: Snapshot) -> bool:
        """Return True unless the object names another operator: that of another release, say, in the same namespace."""
        return not obj.operator or (obj.operator, obj.namespace) == (self.lease_name, self.pod_namespace)

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings from ``environ``; an empty variable counts as unset.

        Raises:
            ConfigError: variables have values that are not allowed; the message names each of them.
        """
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(f"environment: {explain(error)}") from None
