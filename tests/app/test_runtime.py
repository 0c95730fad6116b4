"""In Kubernetes nothing has a default: a default that works there by accident loses tasks."""

import pytest

from app import runtime
from app.config import ConfigError, Environment


@pytest.fixture
def _in_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")


def environment(**variables: str) -> Environment:
    return Environment.read(variables)


@pytest.mark.usefixtures("_in_kubernetes")
def test_a_pod_without_a_model_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"MODEL_PATH is not set; .* \(chart value model\.path\)"):
        runtime.model_path(environment())


@pytest.mark.usefixtures("_in_kubernetes")
def test_a_pod_without_redis_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"no Redis is configured: set REDIS_URL, or REDIS_HOST .* redis\.\*"):
        runtime.redis_url(environment())


@pytest.mark.usefixtures("_in_kubernetes")
def test_a_pod_takes_what_is_set() -> None:
    assert runtime.model_path(environment(MODEL_PATH="/models/wan")) == "/models/wan"
    assert runtime.redis_url(environment(REDIS_URL="redis://r:1/2")) == "redis://r:1/2"


def test_a_laptop_without_a_model_gets_the_tiny_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = runtime.model_path(environment())
    assert path == str(runtime.local_model())
    assert (runtime.local_model() / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"RAY_CLUSTER_NAME": "wan22-abcde", "RAY_CLUSTER_NAMESPACE": "video"}, "video/wan22-abcde"),
        ({"RAY_CLUSTER_NAME": "wan22-abcde"}, "default/wan22-abcde"),
    ],
)
def test_the_cluster_has_the_name_that_kuberay_gives_it(
    variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAMESPACE", raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert runtime.cluster() == name
