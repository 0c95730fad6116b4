"""``kubectl wan22``, with a program in kubectl's place."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner
from wan22_cli import kubectl_plugin

from app.tasks.store import Started
from testing.ports import free_port
from testing.waiting import until
from tests.wan22_cli.conftest import Done
from tests.wan22_cli.served import VIDEO, Served, step, succeed

STAND_IN = Path(__file__).with_name("kubectl.py")


class Cluster:
    """The cluster that the stand-in shows: one RayService, and what was asked about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forward_to("")
        self.write({"phase": "ready", "wanted": counts(2, 1), "have": counts(2, 1), "message": ""})

    def write(self, status: dict[str, Any] | None, managed: bool = True) -> None:
        """Write the RayService with the operator's status; the user's annotations stay."""
        annotations = self.annotations()
        annotations.pop("wan22.dev/status", None)
        if status:
            annotations["wan22.dev/status"] = json.dumps(status)
        labels = {"wan22.dev/managed": "true"} if managed else {}
        metadata = {"name": "wan22-rayservice", "namespace": "video", "labels": labels, "annotations": annotations}
        new = self.folder / "written.json"
        new.write_text(json.dumps([{"kind": "RayService", "metadata": metadata, "spec": {}}]))
        new.replace(self.folder / "objects.json")

    def annotations(self) -> dict[str, str]:
        """Return the RayService's annotations."""
        file = self.folder / "objects.json"
        found: dict[str, str] = json.loads(file.read_text())[0]["metadata"]["annotations"] if file.exists() else {}
        return found

    def forward_to(self, port: int | str) -> None:
        """Let port-forwards reach a port of this machine; none if it is empty."""
        (self.folder / "port").write_text(str(port))

    def calls(self, verb: str) -> list[str]:
        """Return the calls of kubectl with a verb."""
        return [line for line in (self.folder / "calls").read_text().splitlines() if f" {verb} " in line]

    def forwards(self) -> list[int]:
        """Return the processes that ever forwarded."""
        return [int(one.name.removeprefix("forward-")) for one in self.folder.glob("forward-*")]


def counts(workers: int, gangs: int) -> dict[str, int]:
    return {"totalWorkers": workers, "gangs": gangs}


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = home / "cluster"
    folder.mkdir()
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -ISs {STAND_IN} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("KUBECTL_FOLDER", str(folder))
    monkeypatch.setattr(kubectl_plugin, "POLL_SECONDS", 0.05)
    return Cluster(folder)


Plugin = Callable[..., Done]


@pytest.fixture
def plugin(cluster: Cluster, quick: None) -> Plugin:
    """Runs ``kubectl wan22`` with arguments."""

    def run(*arguments: object) -> Done:
        result = CliRunner().invoke(kubectl_plugin.plugin(), [str(one) for one in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


def test_generate_survives_the_pod_to_which_it_is_connected(
    served: Served, cluster: Cluster, plugin: Plugin, home: Path
) -> None:
    async def lose_pod(served: Served, _: Started) -> None:
        await served.go_away()
        served.port = free_port()
        await served.come_back()
        cluster.forward_to(served.port)

    cluster.forward_to(served.port)
    served.lead(step(1), lose_pod, step(2), succeed)
    done = plugin("generate", "a", "--task-id", "pod", "-n", "other", "--context", "c")
    assert (done.status, done.out) == (0, "pod.mp4\n"), done.err
    assert (home / "pod.mp4").read_bytes() == VIDEO
    (first, *_) = forwards = cluster.calls("port-forward")
    assert len(forwards) >= 2
    assert first == "--context=c --namespace=other port-forward service/wan22-rayservice-serve-svc :8000 " + (
        "--address=127.0.0.1"
    )
    assert not [pid for pid in cluster.forwards() if psutil.pid_exists(pid)], "none is left behind"


def test_a_task_that_goes_on_is_named_with_its_namespace(served: Served, cluster: Cluster, plugin: Plugin) -> None:
    cluster.forward_to(served.port)
    done = plugin("generate", "a", "--task-id", "slow", "--timeout", 0)
    assert (done.status, "`kubectl wan22 cancel slow -n video` stops it" in done.err) == (4, True)


def test_without_a_pod_it_says_what_kubectl_said(plugin: Plugin) -> None:
    done = plugin("list")
    assert done.status == 4
    assert "port-forward service/wan22-rayservice-serve-svc: error: timed out waiting" in done.err
    assert "`kubectl wan22 doctor -n video` finds out why" in done.err


def test_scale_sets_annotations_and_waits(cluster: Cluster, plugin: Plugin) -> None:
    def operate() -> None:
        until("the annotations are there", lambda: "wan22.dev/gangs" in cluster.annotations())
        cluster.write({"phase": "resizing", "wanted": counts(4, 2), "have": counts(2, 1), "message": "pods start"})
        seen = len(cluster.calls("get"))
        until("the command looks twice", lambda: len(cluster.calls("get")) > seen + 1)
        cluster.write({"phase": "ready", "wanted": counts(4, 2), "have": counts(4, 2), "message": ""})

    operator = Thread(target=operate)
    operator.start()
    done = plugin("scale", "--workers", 4, "--gangs", 2)
    operator.join()
    assert (done.status, done.out) == (0, "RayService wan22-rayservice: ready: 2 gangs of 4 ranks\n"), done.err
    found = cluster.annotations()
    assert (found["wan22.dev/total-workers"], found["wan22.dev/gangs"]) == ("4", "2")
    assert plugin("scale", "--workers", 4, "--json").json["status"]["phase"] == "ready", "it has them already"


def test_scale_says_why_it_is_refused(cluster: Cluster, plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    done = plugin("scale", "--workers", 7)
    assert done.status == 2
    assert done.err.startswith("kubectl annotate: Error from server: admission webhook")
    assert "found 7" in done.err
    assert plugin("scale").status == 2
    # Without webhooks it is the operator that refuses.
    cluster.write({"phase": "refused", "wanted": counts(2, 1), "have": None, "message": "no plan for 5"})
    with monkeypatch.context() as now:
        now.setattr(kubectl_plugin, "LOOK_SECONDS", 0.0)
        done = plugin("scale", "--workers", 5)
    assert (done.status, "no plan for 5" in done.err) == (1, True)
    cluster.write(None)
    done = plugin("scale", "--workers", 2, "--timeout", 0)
    assert (done.status, "the operator has not reported yet" in done.err) == (4, True)
    cluster.write(None, managed=False)
    done = plugin("scale", "--workers", 2, "--json")
    assert (done.status, "wan22.dev/managed=true" in done.json["error"]["message"]) == (2, True)


def test_status_shows_operator_and_gangs(served: Served, cluster: Cluster, plugin: Plugin) -> None:
    done = plugin("status")
    assert done.status == 1
    assert "ready: 1 gang of 2 ranks" in done.out
    assert "timed out waiting" in done.out
    served.do(served.gang())
    cluster.forward_to(served.port)
    done = plugin("status")
    assert (done.status, "1 of 1" in done.out) == (0, True)
    value = plugin("status", "--json").json
    assert (value["object"], value["status"]["phase"]) == ("rayservice/wan22-rayservice", "ready")
    assert value["readiness"]["gangs"][0]["id"] == "gang"


def test_a_name_that_is_not_there_is_answered_with_what_there_is(plugin: Plugin) -> None:
    done = plugin("list", "--name", "typo")
    assert (done.status, "there is RayService wan22-rayservice" in done.err) == (2, True)


def test_a_machine_without_kubectl(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = plugin("list")
    assert (done.status, "There is no kubectl on the PATH" in done.err) == (2, True)


def test_the_doctor_is_a_command_with_options_of_its_own(plugin: Plugin, home: Path) -> None:
    done = plugin("doctor", "--help")
    assert done.status == 0
    assert "usage: kubectl wan22 doctor" in done.out
    done = plugin("doctor", "--kubeconfig", home / "none", "-n", "video")
    assert (done.status, "set KUBECONFIG or --kubeconfig" in done.err) == (2, True)


def test_kubectl_completes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, found in (["sc"], "scale"), (["list", "--status", "ru"], "running"), (["generate", "--fp"], "--fps"):
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-wan22", *words])
        with pytest.raises(SystemExit):
            kubectl_plugin.complete()
        assert capsys.readouterr().out == f"{found}\n:0\n"
