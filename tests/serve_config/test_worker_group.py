"""Ray counts a worker pod's CPUs and GPUs as KubeRay 1.6 derives them from the group's spec."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_config.__main__ import main
from serve_config.worker_group import ray_cpus, ray_gpus, uncounted_gpus

STANDALONE = Path(__file__).parents[2] / "examples" / "rayservice-standalone.yaml"


def group(limits: dict[str, Any] | None = None, requests: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    resources = {"limits": limits or {}, "requests": requests or {}}
    return {"template": {"spec": {"containers": [{"resources": resources}, {}]}}} | spec


@pytest.mark.parametrize(
    ("of", "gpus"),
    [
        (group({"nvidia.com/gpu": 2}), 2),
        (group({"nvidia.com/gpu": "2"}), 2),
        (group({"amd.com/gpu": 4}), 4),
        (group({"nvidia.com/mig-3g.40gb": 2}), 2),
        # One resource is taken, the first by name that is not 0.
        (group({"amd.com/gpu": 1, "nvidia.com/gpu": 2}), 1),
        (group({"amd.com/gpu": 0, "nvidia.com/gpu": 2}), 2),
        (group({"nvidia.com/gpu": 2}, rayStartParams={"num-gpus": "4"}), 4),
        (group(rayStartParams={"num-gpus": "4"}), 4),
        (group({"nvidia.com/gpu": 2}, rayStartParams={"num-gpus": "0"}), 0),
        (group({"nvidia.com/gpu": 2}, rayStartParams={"num-gpus": "4"}, resources={"GPU": "8"}), 8),
        # Requests do not count.
        (group(requests={"nvidia.com/gpu": 2}), 0),
        (group({"nvidia.com/gpu.shared": 2}), 0),
        (group({"nvidia.com/mig-1g.10gb.me": 2}), 0),
        (group({"nvidia.com/gpumem": 3000}), 0),
        (group(), 0),
        ({}, 0),
    ],
)
def test_gpus(of: dict[str, Any], gpus: int) -> None:
    assert ray_gpus(of) == gpus


@pytest.mark.parametrize(
    ("of", "cpus"),
    [
        (group({"cpu": 8}), 8),
        (group({"cpu": "8"}), 8),
        (group({"cpu": "7500m"}), 8),
        (group({"cpu": 2}, {"cpu": 1}), 2),
        (group(requests={"cpu": 1}), 1),
        (group({"cpu": 8}, rayStartParams={"num-cpus": "4"}), 4),
        (group({"cpu": 8}, rayStartParams={"num-cpus": "0"}), 0),
        (group({"cpu": 8}, rayStartParams={"num-cpus": "4"}, resources={"CPU": "6"}), 6),
        (group(), None),
        (group({"cpu": "many"}), None),
    ],
)
def test_cpus(of: dict[str, Any], cpus: int | None) -> None:
    assert ray_cpus(of) == cpus


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (group({"nvidia.com/gpu.shared": 1, "cpu": 8}), ["nvidia.com/gpu.shared"]),
        (group({"nvidia.com/mig-1g.10gb.me": 1}), ["nvidia.com/mig-1g.10gb.me"]),
        (group({"gpu.intel.com/i915": 1}), ["gpu.intel.com/i915"]),
        (group({"nvidia.com/gpu.shared": 1}, rayStartParams={"num-gpus": "1"}), []),
        (group({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}), []),
        (group({"nvidia.com/mig-3g.40gb": 1}), []),
        (group({"rdma/hca": 1}), []),
    ],
)
def test_gpus_that_ray_does_not_count(of: dict[str, Any], names: list[str]) -> None:
    assert uncounted_gpus(of) == names


def test_check_names_gpus_that_ray_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = STANDALONE.read_text(encoding="utf-8")
    file = tmp_path / "manifest.yaml"
    changed = text.replace('limits: {cpu: "8", memory: 64Gi, nvidia.com/gpu: 1}', "limits: {nvidia.com/gpu.shared: 1}")
    assert yaml.safe_load(changed) != yaml.safe_load(text)
    file.write_text(changed, encoding="utf-8")
    line = changed[: changed.index("nvidia.com/gpu.shared")].count("\n") + 1
    assert main(["--check", str(file)]) == 1
    said = capsys.readouterr().out
    assert f"line {line}, " in said
    assert "resources.limits.nvidia.com/gpu.shared: KubeRay counts it as no GPU for Ray" in said
    assert "renameByDefault" in said
