"""The doctor's calls to the API server: it reads objects, makes one dry run, and runs programs in pods."""

import asyncio
import datetime
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.stream import WsApiClient
from wan22_operator import api_server

from wan22_doctor.facts import Json, name_of
from wan22_doctor.findings import Cause, NotSeen, NotSeenError
from wan22_doctor.pod_program import Channel, Output, exec_query, request_line

ANSWER_SECONDS = 8.0
"""How long the API server may take for one answer."""
EXECS_AT_ONCE = 32
"""Programs that run in pods at the same time."""
Query = Sequence[tuple[str, str]]
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"( in the namespace)?')


class CannotRunError(RuntimeError):
    """No cluster can be reached; the message tells why and what to do."""


class Cluster:
    """One cluster, reached through its API server only."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        self.namespace = namespace
        self.host = str(configuration.host)
        self.now = datetime.datetime.now(datetime.UTC)
        """The API server's time at its last answer."""
        self._objects = ApiClient(configuration)
        self._sockets = WsApiClient(configuration)  # type: ignore[no-untyped-call]
        self._exec_slots = asyncio.Semaphore(EXECS_AT_ONCE)

    @classmethod
    async def connect(cls, namespace: str, kubeconfig: str, context: str) -> Self:
        """Connect as kubectl does or, without a kubeconfig, as the pod's service account.

        Raises:
            CannotRunError: there is neither.
        """
        configuration = Configuration()
        own = "default"
        try:
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig or None, context=context or None, client_configuration=configuration
            )
            own = str((loader.current_context.get("context") or {}).get("namespace") or "default")
        except ConfigException as error:
            try:
                if kubeconfig or context:
                    raise
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            except ConfigException:
                raise CannotRunError(
                    f"no usable kubeconfig ({error}); set KUBECONFIG or --kubeconfig and --context to those of a "
                    "cluster, as for kubectl"
                ) from None
        return cls(configuration, namespace or own)

    async def close(self) -> None:
        """Close the connections."""
        await self._objects.close()  # type: ignore[no-untyped-call]
        await self._sockets.close()  # type: ignore[no-untyped-call]

    async def version(self) -> str:
        """Return the API server's version.

        Raises:
            CannotRunError: it does not answer, or refuses the credentials.
        """
        try:
            answer = await self._request("GET", "/version")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CannotRunError(
                f"the API server {self.host} does not answer ({error or type(error).__name__}); check whether "
                "`kubectl version` reaches it, and check the kubeconfig's server, proxy and certificate"
            ) from None
        except NotSeenError as error:
            raise CannotRunError(
                f"the API server {self.host} refuses the kubeconfig's credentials ({error}); log in again"
            ) from None
        return str(answer.get("gitVersion", "?"))

    async def must_have_namespace(self) -> None:
        """Check that the namespace exists; pass if that cannot be read.

        Raises:
            CannotRunError: it does not.
        """
        try:
            found = await self.get(f"/api/v1/namespaces/{self.namespace}")
        except NotSeenError:
            return
        if found is None:
            raise CannotRunError(
                f"there is no namespace {self.namespace}; kubectl get namespaces lists those that exist"
            )

    async def get(self, path: str, **query: str) -> Json | None:
        """Return the object at an API path; None if it does not exist.

        Raises:
            NotSeenError: the API server refuses or does not answer.
        """
        return await self._read("GET", path, query)

    async def items(self, path: str, **query: str) -> tuple[Json, ...]:
        """Return the objects of the list at an API path; none if the path does not exist.

        Raises:
            NotSeenError: the API server refuses or does not answer.
        """
        answer = await self._read("GET", path, query)
        return tuple((answer or {}).get("items") or ())

    async def refusal(self, path: str, body: Json) -> str:
        """Return with which message a webhook refuses a patch; empty if it passes. It is a dry run: nothing changes.

        Raises:
            NotSeenError: the API server refuses the request for another reason or does not answer.
        """
        try:
            await self._request("PATCH", path, [("dryRun", "All"), ("fieldManager", "wan22-doctor")], body)
        except NotSeenError as error:
            if "denied the request" in str(error):
                return str(error)
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSeenError(_unanswered(error)) from None
        return ""

    async def run(self, pod: Json, program: str, seconds: float, arguments: Json) -> Json:
        """Run a program of ``programs`` in the first container of a pod and return its answer (see ``pod_program``).

        Raises:
            NotSeenError: it cannot be run there, does not end, or fails.
        """
        name, container = name_of(pod), pod["spec"]["containers"][0]["name"]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}/exec"
        query = exec_query(container)
        try:
            async with self._exec_slots, asyncio.timeout(seconds):
                output = await self._exec(path, query, request_line(program, arguments))
        except aiohttp.WSServerHandshakeError as error:
            why = await self._why_not(path, query) or f"{error.status} {error.message}"
            raise NotSeenError(_not_run(name, why)) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                why = f"pod {name}: the {program} program took more than {seconds:g} s"
                raise NotSeenError(
                    NotSeen(why, f"look at the pod's load: kubectl top pod {name}", Cause.FAULT)
                ) from None
            raise NotSeenError(_not_run(name, str(error) or type(error).__name__)) from None
        answer = output.answer()
        if answer is None:
            raise NotSeenError(_not_run(name, output.why_no_answer()))
        return answer

    async def _exec(self, path: str, query: Query, line: str) -> Output:
        arguments = await self._sockets.param_serialize(
            "GET", path, query_params=list(query), auth_settings=["BearerToken"]
        )
        response: Any = await self._sockets.call_api(*arguments, _preload_content=False)  # type: ignore[no-untyped-call]
        output = Output()
        async with response.response as socket:
            await socket.send_bytes(bytes([Channel.STDIN]) + line.encode())
            async for message in socket:
                output.add(message.data)
        return output

    async def _why_not(self, path: str, query: Query) -> str:
        """Repeat an ``exec`` without a websocket: the API server then answers with the reason of its refusal.

        Return an empty text if there is no other reason than the missing websocket.

        Raises:
            NotSeenError: a permission is missing.
        """
        try:
            await self._request("GET", path, query)
        except NotSeenError as error:
            if error.seen.remedy:
                raise
            # An allowed request is refused for not being upgraded to a websocket.
            return "" if "upgrade" in str(error).lower() else str(error)
        except (aiohttp.ClientError, TimeoutError):
            pass
        return ""

    async def _read(self, verb: str, path: str, query: Mapping[str, str]) -> Json | None:
        try:
            return await self._request(verb, path, list(query.items()))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSeenError(_unanswered(error)) from None
        except _MissingError:
            return None

    async def _request(self, verb: str, path: str, query: Query = (), body: object = None) -> Json:
        answer = await api_server.request(
            self._objects, verb, path, body, query=query, patch="merge", seconds=ANSWER_SECONDS
        )
        if answer.date:
            self.now = parsedate_to_datetime(answer.date)
        if answer.status == 404:
            raise _MissingError(NotSeen(answer.message))
        if answer.status == 403 and (found := _FORBIDDEN.search(answer.message)):
            verb, resource, group, namespaced = found.groups()
            raise NotSeenError(_forbidden(verb, resource, group, self.namespace if namespaced else ""))
        if answer.status >= 400:
            why = f"the API server answered {answer.status}: {answer.message}"
            raise NotSeenError(NotSeen(why, "", Cause.BLIND))
        return answer.body or {}


class _MissingError(NotSeenError):
    """The object does not exist."""


def _forbidden(verb: str, resource: str, group: str, namespace: str) -> NotSeen:
    full = f"{resource}.{group}" if group else resource
    scope = f" in namespace {namespace}" if namespace else " in the cluster"
    kind = "role" if namespace else "clusterrole"
    space = f" -n {namespace}" if namespace else ""
    return NotSeen(
        f"not allowed to {verb} {full}{scope}",
        f"grant it: kubectl{space} create {kind} wan22-doctor --verb={verb} --resource={full}, and a binding",
        Cause.BLIND,
    )


def _unanswered(error: Exception) -> NotSeen:
    return NotSeen(f"the API server did not answer: {error or type(error).__name__}", "", Cause.BLIND)


def _not_run(pod: str, why: str) -> NotSeen:
    return NotSeen(
        f"nothing can be run in pod {pod}: {why}",
        f"check whether this works: kubectl exec {pod} -- python -V",
        Cause.FAULT,
    )
