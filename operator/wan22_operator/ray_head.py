"""Requests to the head of a RayCluster: the app's /readyz for its gangs, the dashboard for Ray's nodes and Serve."""

import base64
import json
import time
from typing import Any

import aiohttp
from pydantic import ValidationError

from app.tasks.gang_state import GangState
from serve_config.counts import GENERATOR
from wan22_operator import constants as names
from wan22_operator.kube import Kube
from wan22_operator.observed import Gang, Leader
from wan22_operator.snapshots import Snapshot

TIMEOUT = aiohttp.ClientTimeout(total=4, connect=2)
TOKEN_SECONDS = 60
"""How long a token that was read from its Secret is used."""


class NoAnswerError(RuntimeError):
    """The head does not answer, or not as expected."""


class RayHead:
    """Asks the heads of RayClusters through their Services."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._tokens: dict[tuple[str, str], tuple[float, str]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def gangs(self, cluster: Snapshot) -> tuple[Gang, ...] | None:
        """Return the gangs that the app of this cluster reports; None if it does not answer or cannot be understood."""
        try:
            status, value = await self._ask("GET", cluster, names.SERVE_PORT, "/readyz")
        except NoAnswerError:
            return None
        if status not in (200, 503) or not isinstance(value, dict) or not isinstance(value.get("gangs"), list):
            return None
        try:
            return tuple(_gang(GangState.model_validate(item)) for item in value["gangs"])
        except ValidationError:
            # A report that cannot be read in full proves nothing, and pods end only on proof.
            return None

    async def nodes(self, cluster: Snapshot) -> frozenset[str] | None:
        """Return the IPs of the living Ray worker nodes; None if the dashboard does not answer."""
        try:
            status, value = await self._ask("GET", cluster, names.DASHBOARD_PORT, "/api/v0/nodes?limit=10000")
            rows = value["data"]["result"]["result"]
        except (NoAnswerError, KeyError, TypeError):
            return None
        if status != 200:
            return None
        return frozenset(row["node_ip"] for row in rows if row["state"] == "ALIVE" and not row["is_head_node"])

    async def deployed(self, cluster: Snapshot) -> dict[str, Any]:
        """Return the configuration of every deployed Serve application, by name.

        Raises:
            NoAnswerError: the dashboard does not answer.
        """
        status, value = await self._ask("GET", cluster, names.DASHBOARD_PORT, "/api/serve/applications/")
        if status != 200 or not isinstance(value, dict):
            raise NoAnswerError(f"the dashboard answered {status} to the request for the Serve applications")
        applications = value.get("applications") or {}
        return {name: details.get("deployed_app_config") or {} for name, details in applications.items()}

    async def leaders(self, cluster: Snapshot) -> tuple[Leader, ...] | None:
        """Return the replicas of VideoGenerator that Serve lists, those that start or stop too.

        None if the dashboard does not answer or does not list them.
        """
        try:
            status, value = await self._ask("GET", cluster, names.DASHBOARD_PORT, "/api/serve/applications/")
            deployments = [one["deployments"] for one in value["applications"].values()]
            (replicas,) = (found[GENERATOR]["replicas"] for found in deployments if GENERATOR in found)
            leaders = tuple(Leader(str(one.get("node_ip") or ""), one["state"] == "RUNNING") for one in replicas)
        except (NoAnswerError, KeyError, TypeError, AttributeError, ValueError):
            return None
        return leaders if status == 200 else None

    async def deploy(self, cluster: Snapshot, serve_config: object) -> None:
        """Send Serve its configuration.

        Raises:
            NoAnswerError: the dashboard does not answer or refuses the configuration.
        """
        path = "/api/serve/applications/"
        status, value = await self._ask("PUT", cluster, names.DASHBOARD_PORT, path, serve_config)
        if status != 200:
            raise NoAnswerError(f"the dashboard answered {status} to the Serve configuration: {str(value)[:300]}")

    async def _ask(self, verb: str, cluster: Snapshot, port: int, path: str, body: object = None) -> tuple[int, Any]:
        service = cluster.head_service
        # Without the cluster's domain, which the resolver of every pod adds.
        url = f"http://{service}.{cluster.namespace}.svc:{port}{path}"
        token = await self._token(cluster) if port == names.DASHBOARD_PORT else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT, trust_env=True
            )
        try:
            async with self._session.request(verb, url, json=body, headers=headers) as response:
                return response.status, _parsed(await response.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"{service}:{port} does not answer: {error or repr(error)}") from None

    async def _token(self, cluster: Snapshot) -> str:
        """Return Ray's token from its Secret; empty if the cluster has none."""
        if not cluster.token_secret:
            return ""
        key = cluster.namespace, cluster.token_secret
        read_at, token = self._tokens.get(key, (float("-inf"), ""))
        if time.monotonic() - read_at > TOKEN_SECONDS:
            secret = await self._kube.get(f"/api/v1/namespaces/{key[0]}/secrets/{key[1]}")
            encoded = ((secret or {}).get("data") or {}).get(names.TOKEN_KEY, "")
            token = base64.b64decode(encoded).decode().strip()
            self._tokens[key] = time.monotonic(), token
        return token


def _gang(state: GangState) -> Gang:
    return Gang(
        wanted=state.wanted,
        have=state.have,
        phase=state.phase,
        listed=sum(len(node.ranks) for node in state.nodes),
        message=state.message,
        addresses=frozenset(node.ip for node in state.nodes if node.ranks or node.leader),
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
