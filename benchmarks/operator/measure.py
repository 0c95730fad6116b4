"""Measures the operator on a real control plane: latency, restart with many objects, CPU, memory and API requests.

usage: PYTHONPATH=operator:. python benchmarks/operator/measure.py [--objects 500] [--samples 200]

Pods do not run: the stand-in answers that every gang has its ranks, and KubeRay makes RayClusters and their pods.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from testing.control_plane.api import Json
from testing.control_plane.manifests import ray_service
from testing.control_plane.operators import Operator, operator_objects
from testing.control_plane.plane import ControlPlane
from testing.control_plane.standin import Heads
from testing.ports import free_port
from testing.waiting import until

NAMESPACE = "bench"
USER = f"system:serviceaccount:{NAMESPACE}:wan22-operator"
BASE = f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
WRITES = {"create", "update", "patch", "delete"}


class ReadyHeads(Heads):
    """Answers that every gang has the one rank it wants."""

    def get(self, url: str, token: str) -> tuple[int, Any]:
        """Answer a GET."""
        if url.endswith("/readyz"):
            gang = {"id": "g", "wanted": 1, "have": 1, "phase": "ready", "message": "", "nodes": []}
            return 200, {"ready": True, "cluster": "stand-in", "gangs": [gang]}
        return super().get(url, token)


class Usage:
    """CPU seconds and memory of the operator and of KubeRay over a while."""

    def __init__(self, plane: ControlPlane, operator: Operator) -> None:
        assert operator.process
        kuberay = plane.processes["kuberay-operator"]
        self._processes = {"operator": psutil.Process(operator.process.pid), "KubeRay": psutil.Process(kuberay.pid)}
        self._before = {name: self._cpu(process) for name, process in self._processes.items()}

    def table(self) -> str:
        """Return ``name: CPU seconds since, resident memory now`` of each."""
        return "; ".join(
            f"{name} {self._cpu(process) - self._before[name]:.1f} s CPU, {process.memory_info().rss / 1e6:.0f} MB"
            for name, process in self._processes.items()
        )

    @staticmethod
    def _cpu(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)


class Bench:
    """One control plane with many RayServices."""

    def __init__(self, folder: Path, objects: int) -> None:
        self.plane = ControlPlane(folder, audit=True)
        self.plane.heads.stop()
        self.plane.heads = ReadyHeads()
        self.names = [f"rs{number}" for number in range(objects)]

    def run(self, samples: int) -> None:
        """Measure everything and print it."""
        plane = self.plane
        plane.start()
        plane.kubelet.stop()
        plane.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        port = free_port()
        for body in operator_objects(NAMESPACE, f"webhook.url=https://127.0.0.1:{port}"):
            plane.admin.apply(body, manager="helm")
        settings = {"POLL_SECONDS": "1", "LEASE_SECONDS": "10"}
        self.operator = Operator(plane, NAMESPACE, "operator-0", port, **settings).start().wait()
        try:
            self._create()
            self._latency(samples)
            self._steady()
            self._restart_without_changes()
            self._restart_with_changes()
        finally:
            self.operator.stop()

    def _create(self) -> None:
        usage, began = Usage(self.plane, self.operator), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: self.plane.admin.apply(ray_service(NAMESPACE, name, workers=1)), self.names))
        until("all are ready", lambda: self._ready() == len(self.names), 600, every=1)
        print(
            f"created {len(self.names)} RayServices, all ready after {time.monotonic() - began:.1f} s ({usage.table()})"
        )

    def _latency(self, samples: int) -> None:
        seconds = []
        for number in range(samples):
            name = self.names[number * len(self.names) // samples]
            cluster = f"{BASE}/rayclusters/{self._cluster(name)}"
            began = time.monotonic()
            self._annotate(name, "2")
            until(f"{name} is patched", lambda: self._replicas(cluster) == 2, 30, every=0.002)  # noqa: B023
            seconds.append(time.monotonic() - began)
        load = os.getloadavg()[0]
        print(
            f"annotation to RayCluster patched, {samples} samples: {_spread(seconds)}; load of the machine {load:.1f}"
        )
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: self._annotate(name, None), self.names))
        until("all are ready again", lambda: self._ready() == len(self.names), 300, every=1)

    def _steady(self, seconds: float = 60) -> None:
        before, usage = self._counters(), Usage(self.plane, self.operator)
        size = self.plane.audit_log.stat().st_size
        time.sleep(seconds)
        after, audit = self._counters(), self._audit(size)
        looks = after["reconciles"] - before["reconciles"]
        writes = sum(count for verb, count in audit.items() if verb.split()[0] in WRITES and "leases" not in verb)
        requests = after["requests"] - before["requests"]
        print(f"steady state, {seconds:g} s: {looks:.0f} looks, {requests:.0f} API requests ({usage.table()})")
        print(f"  {writes} writes beside the Lease's; by the audit log: {audit}")

    def _restart_without_changes(self) -> None:
        self.operator.kill()
        began = time.monotonic()
        self.operator.start()
        usage = Usage(self.plane, self.operator)
        until("all were looked at", lambda: self._counters().get("reconciles", 0) >= len(self.names), 300, every=0.05)
        counters = self._counters()
        each = counters["requests"] / counters["reconciles"]
        took = time.monotonic() - began
        print(f"restart, nothing changed: all looked at after {took:.1f} s, ", end="")
        print(f"{each:.2f} API requests a look ({usage.table()})")

    def _restart_with_changes(self) -> None:
        self.operator.kill()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: self._annotate(name, "2"), self.names))
        began = time.monotonic()
        self.operator.start()
        usage = Usage(self.plane, self.operator)
        until("all are followed", lambda: self._grown() == len(self.names), 600, every=0.5)
        counters = self._counters()
        each, took = counters["requests"] / len(self.names), time.monotonic() - began
        print(f"restart, every annotation changed meanwhile: all RayClusters patched after {took:.1f} s, ", end="")
        print(f"{each:.1f} API requests an object ({usage.table()})")

    def _annotate(self, name: str, value: str | None) -> None:
        body = {"metadata": {"annotations": {"wan22.dev/total-workers": value}}}
        self.plane.admin.merge(f"{BASE}/rayservices/{name}", body)

    def _cluster(self, name: str) -> str:
        status = self.plane.admin.request("GET", f"{BASE}/rayservices/{name}")["status"]
        return str(status["pendingServiceStatus"]["rayClusterName"])

    def _replicas(self, path: str) -> int:
        return int(self.plane.admin.request("GET", path)["spec"]["workerGroupSpecs"][0]["replicas"])

    def _services(self) -> list[Json]:
        return list(self.plane.admin.request("GET", f"{BASE}/rayservices")["items"])

    def _ready(self) -> int:
        statuses = [item["metadata"]["annotations"].get("wan22.dev/status", "{}") for item in self._services()]
        return sum(json.loads(status).get("phase") == "ready" for status in statuses)

    def _grown(self) -> int:
        clusters = self.plane.admin.request("GET", f"{BASE}/rayclusters")["items"]
        return sum(item["spec"]["workerGroupSpecs"][0]["replicas"] == 2 for item in clusters)

    def _counters(self) -> dict[str, float]:
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.operator.metrics_port}", timeout=5).read().decode()
        except OSError:
            return {}
        found = {"reconciles": 0.0, "requests": 0.0}
        for name, value in re.findall(r"^wan22_operator_(reconciles|api_requests)_total\{.*\} (\S+)$", text, re.M):
            found[name.removeprefix("api_")] += float(value)
        return found

    def _audit(self, start: int) -> dict[str, int]:
        """Return how often the operator sent each kind of request, watches left out."""
        counts: dict[str, int] = {}
        with self.plane.audit_log.open() as log:
            log.seek(start)
            for line in log:
                entry = json.loads(line)
                if entry["user"].get("username") == USER and entry["verb"] != "watch":
                    what = f"{entry['verb']} {entry.get('objectRef', {}).get('resource', entry['requestURI'])}"
                    counts[what] = counts.get(what, 0) + 1
        return counts


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    last = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return f"p50 {statistics.median(ordered) * 1000:.0f} ms, p99 {last * 1000:.0f} ms, most {ordered[-1] * 1000:.0f} ms"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.objects)
        try:
            bench.run(options.samples)
        finally:
            bench.plane.stop()


if __name__ == "__main__":
    main()
