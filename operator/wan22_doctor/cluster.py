"""The API server as the doctor uses it: reading objects, one dry run, and programs run inside pods."""

import asyncio
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from importlib.resources import files
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.stream import WsApiClient

from wan22_doctor.facts import Json, name_of, short
from wan22_doctor.findings import Cause, NotSeen

SECONDS = 8.0
"""How long the API server may take for one answer."""
AT_ONCE = 32
"""Programs that run in pods at the same time."""
MARK = "wan22-doctor-answer:"
# The program comes by stdin: it would be too long for a URL, and it needs no shell and no file in the pod.
START = (
    "import json,os,sys\n"
    "asked=json.loads(sys.stdin.readline())\n"
    "scope={'__name__':'wan22_doctor_program'}\n"
    "exec(compile(asked['program'],'wan22-doctor','exec'),scope)\n"
    f"print('\\n{MARK}'+json.dumps(scope['main'](**asked['arguments'])),flush=True)\n"
    "os._exit(0)"
)
Query = Sequence[tuple[str, str]]
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"( in the namespace)?')


class CannotRunError(RuntimeError):
    """There is no cluster to look at; the message says why and what to do."""


class NotSeenError(Exception):
    """One thing could not be looked at."""

    def __init__(self, seen: NotSeen) -> None:
        super().__init__(seen.why)
        self.seen = seen


class Cluster:
    """One cluster, through the API server alone."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        self.namespace = namespace
        self.host = str(configuration.host)
        self.now = datetime.datetime.now(datetime.UTC)
        """The API server's time at its last answer."""
        self._objects = ApiClient(configuration)
        self._sockets = WsApiClient(configuration)  # type: ignore[no-untyped-call]
        self._places = asyncio.Semaphore(AT_ONCE)

    @classmethod
    async def connect(cls, namespace: str, kubeconfig: str, context: str) -> Self:
        """Connect as kubectl does, or as the pod's service account where there is no kubeconfig.

        Raises:
            CannotRunError: there is neither, or the API server does not answer.
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
            CannotRunError: it does not answer, or not to these credentials.
        """
        try:
            answer = await self._request("GET", "/version")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CannotRunError(
                f"the API server {self.host} does not answer ({error or type(error).__name__}); see whether "
                "`kubectl version` reaches it, and check the kubeconfig's server, proxy and certificate"
            ) from None
        except NotSeenError as error:
            raise CannotRunError(
                f"the API server {self.host} refuses the kubeconfig's credentials ({error}); log in again"
            ) from None
        return str(answer.get("gitVersion", "?"))

    async def must_have_namespace(self) -> None:
        """See that the namespace exists, as far as that may be seen.

        Raises:
            CannotRunError: it does not.
        """
        try:
            found = await self.get(f"/api/v1/namespaces/{self.namespace}")
        except NotSeenError:
            return
        if found is None:
            raise CannotRunError(
                f"there is no namespace {self.namespace}; kubectl get namespaces shows which there are"
            )

    async def get(self, path: str, **query: str) -> Json | None:
        """Return the object at an API path, None where there is none.

        Raises:
            NotSeenError: the API server refuses or does not answer.
        """
        return await self._asked("GET", path, query)

    async def items(self, path: str, **query: str) -> tuple[Json, ...]:
        """Return the objects at an API path."""
        answer = await self._asked("GET", path, query)
        return tuple((answer or {}).get("items") or ())

    async def refusal(self, path: str, body: Json) -> str:
        """Return what the API server answers to a patch that must be refused; it is a dry run, nothing changes."""
        try:
            await self._request("PATCH", path, [("dryRun", "All"), ("fieldManager", "wan22-doctor")], body)
        except NotSeenError as error:
            if "denied the request" in str(error):
                return str(error)
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSeenError(_silent(error)) from None
        return ""

    async def run(self, pod: Json, program: str, seconds: float, arguments: Json) -> Json:
        """Run a program of ``programs`` in the first container of a pod, and return its answer.

        Raises:
            NotSeenError: it cannot be run there, does not end, or fails.
        """
        name, container = name_of(pod), pod["spec"]["containers"][0]["name"]
        source = files("wan22_doctor").joinpath("programs", f"{program}.py").read_text(encoding="utf-8")
        asked = json.dumps({"program": source, "arguments": arguments}) + "\n"
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}/exec"
        query = [("container", container), *((stream, "true") for stream in ("stdin", "stdout", "stderr"))]
        query += [("command", word) for word in ("python", "-c", START)]
        try:
            async with self._places, asyncio.timeout(seconds):
                output, errors = await self._exec(path, query, asked)
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
        answer = answer_in(output)
        if answer is None:
            raise NotSeenError(_not_run(name, errors))
        return answer

    async def _exec(self, path: str, query: Query, asked: str) -> tuple[str, str]:
        arguments = await self._sockets.param_serialize(
            "GET", path, query_params=list(query), auth_settings=["BearerToken"]
        )
        response: Any = await self._sockets.call_api(*arguments, _preload_content=False)  # type: ignore[no-untyped-call]
        heard = {1: b"", 2: b"", 3: b""}
        async with response.response as socket:
            await socket.send_bytes(b"\x00" + asked.encode())
            async for message in socket:
                data = message.data.encode() if isinstance(message.data, str) else message.data
                if data and data[0] in heard:
                    heard[data[0]] += data[1:]
        return heard[1].decode(errors="replace"), _why_ended(heard[2].decode(errors="replace"), _parsed(heard[3]))

    async def _why_not(self, path: str, query: Query) -> str:
        """Ask for a program once more, without a socket: then the API server says why it refuses.

        Raises:
            NotSeenError: for lack of a permission.
        """
        try:
            await self._request("GET", path, query)
        except NotSeenError as error:
            if error.seen.remedy:
                raise
            # Where the request would have passed, only the socket is missing in it.
            return "" if "upgrade" in str(error).lower() else str(error)
        except (aiohttp.ClientError, TimeoutError):
            pass
        return ""

    async def _asked(self, verb: str, path: str, query: Mapping[str, str]) -> Json | None:
        try:
            return await self._request(verb, path, list(query.items()))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSeenError(_silent(error)) from None
        except _MissingError:
            return None

    async def _request(self, verb: str, path: str, query: Query = (), body: object = None) -> Json:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        arguments = await self._objects.param_serialize(
            verb,
            path,
            query_params=list(query),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._objects.call_api(*arguments, _request_timeout=SECONDS)
        content = await response.read()  # type: ignore[no-untyped-call]
        if date := response.getheader("Date"):  # type: ignore[no-untyped-call]
            self.now = parsedate_to_datetime(date)
        value = _parsed(content)
        message = str(value.get("message") or content[:200].decode(errors="replace") or response.reason)
        if response.status == 404:
            raise _MissingError(NotSeen(message))
        if response.status == 403 and (found := _FORBIDDEN.search(message)):
            verb, resource, group, namespaced = found.groups()
            raise NotSeenError(_forbidden(verb, resource, group, self.namespace if namespaced else ""))
        if response.status >= 400:
            raise NotSeenError(NotSeen(f"the API server answered {response.status}: {message}", "", Cause.BLIND))
        return value


class _MissingError(NotSeenError):
    """There is no such object."""


def answer_in(output: str) -> Json | None:
    """Return a program's answer out of all that was printed beside it; None where there is none."""
    answers = [line[len(MARK) :] for line in output.splitlines() if line.startswith(MARK)]
    return json.loads(answers[-1]) if answers else None


def _why_ended(errors: str, status: Json) -> str:
    """Return why a program gave no answer: the last line that it wrote, else what the kubelet says."""
    if lines := errors.strip().splitlines():
        return lines[-1]
    causes = (status.get("details") or {}).get("causes") or ()
    codes = [int(one["message"]) for one in causes if one.get("reason") == "ExitCode"]
    if codes:
        return f"python was killed (exit code {codes[0]})" if codes[0] > 128 else f"python ended with {codes[0]}"
    return short(str(status.get("message") or "python printed nothing"))


def _forbidden(verb: str, resource: str, group: str, namespace: str) -> NotSeen:
    full = f"{resource}.{group}" if group else resource
    where = f" in namespace {namespace}" if namespace else " in the cluster"
    kind = "role" if namespace else "clusterrole"
    space = f" -n {namespace}" if namespace else ""
    return NotSeen(
        f"not allowed to {verb} {full}{where}",
        f"have it granted: kubectl{space} create {kind} wan22-doctor --verb={verb} --resource={full}, and a binding",
        Cause.BLIND,
    )


def _silent(error: Exception) -> NotSeen:
    return NotSeen(f"the API server did not answer: {error or type(error).__name__}", "", Cause.BLIND)


def _not_run(pod: str, why: str) -> NotSeen:
    return NotSeen(
        f"nothing can be run in pod {pod}: {why}",
        f"see whether this works: kubectl exec {pod} -- python -V",
        Cause.FAULT,
    )


def _parsed(content: bytes) -> Json:
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
