"""The operator's environment."""

import pytest
from wan22_operator import constants as names
from wan22_operator.object_cache import ObjectCache
from wan22_operator.settings import Settings
from wan22_operator.snapshots import read

from app.config import ConfigError


def test_empty_variables_count_as_unset() -> None:
    assert Settings.read({"WATCH_NAMESPACE": "", "RESYNC_SECONDS": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_SECONDS", "1"),
        pytest.param("LEASE_SECONDS", "2.5", id="a Lease holds whole seconds"),
        ("WEBHOOK_PORT", "0"),
        ("WEBHOOK_ENABLED", "perhaps"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name.lower()):
        Settings.read({name: value})


def test_polling_more_slowly_than_resyncing_is_refused_and_both_variables_are_named() -> None:
    with pytest.raises(ConfigError, match=r"poll_seconds is 60, .* 30; lower POLL_SECONDS or raise RESYNC_SECONDS"):
        Settings.read({"POLL_SECONDS": "60"})
    assert Settings.read({"POLL_SECONDS": "60", "RESYNC_SECONDS": "60"}).poll_seconds == 60


@pytest.mark.parametrize(
    ("operator", "namespace", "followed"),
    [
        ("", "ns", True),
        ("", "elsewhere", True),
        ("prod-operator", "ns", True),
        ("staging-operator", "ns", False),
        ("prod-operator", "elsewhere", False),
    ],
)
def test_an_object_that_names_another_operator_is_not_followed(operator: str, namespace: str, followed: bool) -> None:
    labels = {names.MANAGED: "true"} | ({names.OPERATED_BY: operator} if operator else {})
    obj = read(names.RAY_SERVICE, {"metadata": {"name": "s", "namespace": namespace, "labels": labels}})
    settings = Settings(lease_name="prod-operator", pod_namespace="ns")
    cache = ObjectCache(settings.follows)
    cache.put(obj)
    assert settings.follows(obj) == followed
    assert (cache.get(obj.key) is not None) == followed
