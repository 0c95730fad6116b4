"""POST /generate under load, against an empty FastAPI ingress with the same body model in the same run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from statistics import median, quantiles
from typing import Any

import aiohttp
from fastapi import FastAPI
from ray import serve

from app.http.generate_request import GenerateRequest
from testing.service import Service
from testing.waiting import until

CONNECTIONS = 16
SECONDS = 8.0
ROUNDS = 3
BODY = {"prompt": "a red circle moves right over a blue ground", "num_inference_steps": 1, "num_frames": 1}

empty = FastAPI()


@serve.ingress(empty)
class EmptyIngress:
    """What any Serve application with this body pays: routing, JSON, validation."""

    @empty.post("/empty", status_code=202)
    async def generate(self, request: GenerateRequest) -> GenerateRequest:
        return request


def measure(service: Service) -> list[dict[str, Any]]:
    """Requests a second and latency in ms; the two are loaded in turn, each by the same client process.

    No gang runs meanwhile: its GPU would be elsewhere, but here its ranks would take the same two cores.
    """
    service.deploy(workers=1, gangs=1, max_queued_tasks=10**6)
    service.wait_for_gangs(workers=1)
    ingress = serve.deployment(EmptyIngress).options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1000)
    serve.run(ingress.bind(), name="empty", route_prefix="/empty")
    figures: dict[str, list[dict[str, float]]] = {"/empty/empty": [], "/generate": []}
    for _ in range(ROUNDS):
        for path, found in figures.items():
            leader = service.gang()["pid"]
            # A leader that is silent gets no task, and three such rounds are far from its health check's limit.
            os.kill(leader, signal.SIGSTOP)
            try:
                found.append(_load(f"{str(service.http.base_url).rstrip('/')}{path}"))
            finally:
                os.kill(leader, signal.SIGCONT)
            _cancel_all(service)
    serve.delete("empty")
    rows = []
    base = 0.0
    for path, name in (("/empty/empty", "empty FastAPI ingress"), ("/generate", "POST /generate")):
        rate = median(one["rate"] for one in figures[path])
        base = base or rate
        rows.append(
            {
                "system": name,
                "requests a second": rate,
                "ratio": rate / base,
                "median ms": median(one["median"] for one in figures[path]),
                "p99 ms": median(one["p99"] for one in figures[path]),
                "errors": int(sum(one["errors"] for one in figures[path])),
            }
        )
    return rows


def _load(url: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.service.http_load", url]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _cancel_all(service: Service) -> None:
    def none_left() -> bool:
        waiting = service.http.get("/generate", params={"status": "queued", "limit": 200}).json()["tasks"]
        for task in waiting:
            service.http.delete(task["url"])
        return not waiting and not service.http.get("/generate", params={"status": "running"}).json()["tasks"]

    until("the queue is empty", none_left, 300)


async def _client(url: str) -> dict[str, float]:
    times: list[float] = []
    errors = 0
    end = time.monotonic() + SECONDS

    async def connection(session: aiohttp.ClientSession) -> None:
        nonlocal errors
        while time.monotonic() < end:
            began = time.perf_counter()
            async with session.post(url, json=BODY) as reply:
                await reply.read()
                errors += reply.status != 202
            times.append(1000 * (time.perf_counter() - began))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(connection(session) for _ in range(CONNECTIONS)))
    return {"rate": len(times) / SECONDS, "median": median(times), "p99": quantiles(times, n=100)[98], "errors": errors}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_client(sys.argv[1]))))
