"""The chart and serve_config say the same: the text of serveConfigV2, the plan rule and the sizes of pods."""

import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from app.plan import allowed_counts, worker_pods
from serve_config import ServeValues, check_serve_config, render
from serve_config.manifest import read_pod_sizes
from serve_config.names import heads_of
from serve_config.values import chart_value
from tests.charts.conftest import CHART, CI, Rendered, Template


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a chart's values with those of a file over them, as Helm merges them."""
    both = base | over
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = merged(base[key], over[key])
    return both


def serve_values(file: Path) -> ServeValues:
    """Return what a values file of the chart means to serve_config."""
    defaults, own = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CHART / "values.yaml", file))
    values = merged(defaults, own)
    given: dict[str, Any] = {
        field: reduce(getitem, chart_value(field).split("."), values) for field in ServeValues.model_fields
    }
    given["attention_heads"] = given["attention_heads"] or heads_of(values["model"]["path"])
    # An empty text or null leaves it to the default.
    return ServeValues.model_validate({field: value for field, value in given.items() if value not in ("", None)})


def serve_config(rendered: Rendered) -> str:
    """Return the serveConfigV2 in rendered objects, of a RayService or of the ConfigMap beside a RayCluster."""
    (text,) = [
        one["spec"]["serveConfigV2"] if one["kind"] == "RayService" else one["data"]["serveConfigV2"]
        for one in rendered.objects
        if one["kind"] == "RayService" or "serveConfigV2" in one.get("data", {})
    ]
    return str(text)


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_serve_config_is_the_same_byte_for_byte(file: Path, template: Template) -> None:
    values = serve_values(file)
    rendered = template(file)
    assert rendered.error == ""
    assert serve_config(rendered) == render(values)
    (cluster,) = [one for one in rendered.objects if one["kind"] in ("RayService", "RayCluster")]
    spec = cluster["spec"].get("rayClusterConfig", cluster["spec"])
    found = read_pod_sizes(yaml.compose(yaml.safe_dump(spec), Loader=yaml.SafeLoader))
    assert (found.gpus, found.count) == (values.gpus_per_worker, values.pods)
    assert check_serve_config(serve_config(rendered), found, with_ray=True) == []


PROBE = """\
{{- range $heads := list 40 24 48 4 }}
heads{{ $heads }}: {{ include "wan22.allowedCounts" $heads }}
{{- end }}
pods:
{{- range $gpus := list 1 2 3 8 }}
{{- range $gangs := list 1 2 7 }}
{{- range $ranks := untilStep 1 81 1 }}
{{- $values := dict "totalWorkers" $ranks "gangs" $gangs "gpusPerWorker" $gpus }}
  - {{ list $ranks $gangs $gpus (include "wan22.pods" (dict "Values" $values) | int) | toJson }}
{{- end }}
{{- end }}
{{- end }}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, template: Template) -> dict[str, Any]:
    """What the chart's own helpers answer, asked by a chart that has nothing but them."""
    chart = tmp_path_factory.mktemp("probe")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: probe, version: 0.0.1}", encoding="utf-8")
    (chart / "templates" / "_plan.tpl").write_text((CHART / "templates" / "_plan.tpl").read_text(encoding="utf-8"))
    (chart / "templates" / "probe.yaml").write_text("kind: Probe\nmetadata: {name: probe}\n" + PROBE, encoding="utf-8")
    rendered = template(chart=chart)
    assert rendered.error == ""
    return rendered.one("Probe")


@pytest.mark.parametrize("heads", [40, 24, 48, 4])
def test_gang_sizes_with_a_plan_are_those_of_the_app(heads: int, probe: dict[str, Any]) -> None:
    assert probe[f"heads{heads}"] == allowed_counts(heads)


def test_worker_pods_are_those_of_the_app(probe: dict[str, Any]) -> None:
    assert len(probe["pods"]) == 80 * 3 * 4
    assert [pods for *_, pods in probe["pods"]] == [worker_pods(*asked) for *asked, _ in probe["pods"]]


@pytest.mark.parametrize(
    ("path", "heads"),
    [
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", 40),
        ("/models/Wan2.2-I2V-A14B", 40),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 24),
        ("/models/tiny", None),
        ("/models/15B", None),
    ],
)
def test_attention_heads_follow_from_the_model(path: str, heads: int | None, template: Template) -> None:
    assert heads_of(path) == heads
    (application,) = json.loads(serve_config(template(**{"model.path": path})))["applications"]
    assert application["args"]["attention_heads"] == heads


@pytest.mark.parametrize(
    "values",
    [
        {"gpusPerWorker": 8, "worker.resources.limits.cpu": 4},
        {"gpusPerWorker": 0, "worker.resources.limits.cpu": 1},
        {"gpusPerWorker": 0, "app.rankCpus": 0.25},
        {"gpusPerWorker": 1, "app.apiCpus": 8},
        {"totalWorkers": 7},
        {"gpusPerWorker": 0, "device": "cuda"},
    ],
)
def test_chart_refuses_in_the_words_of_serve_config(values: dict[str, Any], template: Template) -> None:
    fields = {chart_value(field): field for field in ServeValues.model_fields}
    with pytest.raises(ValidationError) as error:
        ServeValues.model_validate({"attention_heads": 24} | {fields[key]: value for key, value in values.items()})
    said = str(error.value).split("Value error, ")[1].split(" [type=")[0]
    for field in fields.values():
        said = said.replace(f" ({field})", "")
    refused = template(**values)
    assert refused.returncode != 0
    assert said.replace("; use one of", " (model.path Wan-AI/Wan2.2-TI2V-5B-Diffusers); use one of") in refused.error
