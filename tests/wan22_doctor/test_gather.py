"""Which object is meant."""

from typing import Any

import pytest
from wan22_doctor.facts import choose
from wan22_doctor.findings import Cause, NotSeenError
from wan22_doctor.gather import follows

Json = dict[str, Any]


def body(kind: str, name: str, managed: bool = True, owner: str = "") -> Json:
    owners = [{"kind": "RayService", "name": owner}] if owner else []
    labels = {"wan22.dev/managed": "true"} if managed else {}
    return {"kind": kind, "metadata": {"name": name, "labels": labels, "ownerReferences": owners}, "spec": {}}


ONE = body("RayService", "one")
ITS_CLUSTER = body("RayCluster", "one-x7k2p", owner="one")
OTHER = body("RayService", "other", managed=False)


@pytest.mark.parametrize(
    ("bodies", "name", "chosen"),
    [
        pytest.param([ONE, ITS_CLUSTER], "", "one", id="the only one, not the RayCluster made for it"),
        pytest.param([ONE, OTHER], "", "one", id="the only managed one"),
        pytest.param([OTHER], "", "other", id="the only one, though not managed"),
        pytest.param([ONE, OTHER], "other", "other", id="the named one"),
        pytest.param([ONE, ITS_CLUSTER], "one-x7k2p", "one", id="the owner of the named RayCluster"),
        pytest.param([body("RayCluster", "alone")], "", "alone", id="a RayCluster of its own"),
    ],
)
def test_the_object_that_is_meant(bodies: list[Json], name: str, chosen: str) -> None:
    assert choose(bodies, name, "videos")["metadata"]["name"] == chosen


@pytest.mark.parametrize(
    ("bodies", "name", "says", "cause"),
    [
        ([], "", "namespace videos has no RayService", Cause.FAULT),
        ([ONE], "typo", "no RayCluster typo; there is RayService one", Cause.FAULT),
        ([ONE, body("RayService", "two")], "", "RayService one, RayService two", Cause.BLIND),
    ],
)
def test_no_object_or_too_many(bodies: list[Json], name: str, says: str, cause: Cause) -> None:
    with pytest.raises(NotSeenError, match=says) as error:
        choose(bodies, name, "videos")
    assert error.value.seen.cause == cause


@pytest.mark.parametrize(
    ("watched", "named", "expected"),
    [
        ("", "", True),
        ("videos", "", True),
        ("others", "", False),
        ("others, videos", "", True),
        ("videos", "prod-operator", True),
        ("videos", "staging-operator", False),
    ],
)
def test_an_operator_follows_its_namespaces_or_all_and_the_objects_that_name_it(
    watched: str, named: str, expected: bool
) -> None:
    container = {"env": [{"name": "WATCH_NAMESPACE", "value": watched}]}
    deployment = {"metadata": {"name": "prod-operator"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    assert follows(deployment, "videos", named) is expected
