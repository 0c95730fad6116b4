"""In the head pod: ask Ray's dashboard, Serve, the app and Redis."""

import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Imported before the threads start: of two concurrent imports, one may find a package half loaded by the other.
try:
    import redis

    from app.config import Environment
except ImportError as error:
    not_in_the_image = f"not in the image: {error}"
else:
    not_in_the_image = ""

PENDING = "/api/v0/placement_groups?limit=100&detail=true&filter_keys=state&filter_predicates=%3D&filter_values=PENDING"


def main(service: str, dashboard: str = "http://127.0.0.1:8265", seconds: float = 6) -> dict[str, Any]:
    """Ask everything concurrently and return the answers by name. ``service`` is the URL of the app for clients."""
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asks = {
        "nodes": lambda: _ask(f"{dashboard}/api/v0/nodes?limit=1000&detail=true", headers, seconds),
        "waiting": lambda: _ask(dashboard + PENDING, headers, seconds),
        "applications": lambda: _ask(f"{dashboard}/api/serve/applications/", headers, seconds),
        "readyz": lambda: _ask(f"{service}/readyz", {}, seconds),
        "redis": lambda: _redis(seconds),
        "versions": _versions,
    }
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = {name: pool.submit(ask) for name, ask in asks.items()}
        return {name: answer.result() for name, answer in answers.items()}


def _token() -> str:
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ask(url: str, headers: dict[str, str], seconds: float) -> dict[str, Any]:
    """Return status, body and seconds of an answer; the error if there was none."""
    began = time.monotonic()
    # A pod may have a proxy for the internet; services of its own cluster are not behind it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=seconds) as reply:
            status, content = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    except OSError as error:
        return {"url": url, "error": str(getattr(error, "reason", error)) or type(error).__name__}
    try:
        body = json.loads(content)
    except ValueError:
        body = content[:500].decode(errors="replace")
    return {"url": url, "status": status, "body": body, "seconds": time.monotonic() - began}


def _redis(seconds: float) -> dict[str, Any]:
    """Use Redis by the app's own settings: a ping, a write of a key that expires, and the server's configuration."""
    if not_in_the_image:
        return {"error": not_in_the_image, "server": "?"}
    try:
        environment = Environment.read(os.environ)
    except ValueError as error:
        return {"error": str(error), "server": "?"}
    limits: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "decode_responses": True}
    url = environment.redis_address()
    if not url:
        return {"error": "neither REDIS_URL nor REDIS_HOST is set in the pod", "server": "?"}
    client = redis.Redis.from_url(url, **limits)
    kwargs = client.connection_pool.connection_kwargs
    server = f"{kwargs.get('host')}:{kwargs.get('port')}"
    began = time.monotonic()
    try:
        client.ping()
        client.set(f"{environment.redis_prefix}doctor", "1", ex=10)
        owner = str(client.get(f"{environment.redis_prefix}owner") or "")
    except redis.RedisError as error:
        return {"server": server, "error": f"{type(error).__name__}: {error}"}
    if owner and owner != environment.release:
        text = f"its keys {environment.redis_prefix}* belong to release {owner!r}, and this is {environment.release!r}"
        return {"server": server, "error": text}
    answer: dict[str, Any] = {"server": server, "seconds": time.monotonic() - began}
    try:
        wanted = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
        answer["config"] = {name: value for name in wanted for value in client.config_get(name).values()}
    except redis.RedisError as error:
        answer["config_error"] = str(error)
    try:
        answer["version"] = str(client.info("server").get("redis_version", "?"))
    except redis.RedisError:
        answer["version"] = "?"
    return answer


def _versions() -> dict[str, str]:
    found = {}
    for package in ("ray", "wan22-rayservice"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
