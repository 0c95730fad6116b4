"""Every kind of wrong serveConfigV2, told with its place and the remedy."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.config import AppArgs
from serve_config import Pods, ServeValues, check_serve_config, keys, render
from serve_config.__main__ import main

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

INLINE = """\
applications:
  - name: wan22
    route_prefix: /
    import_path: |
      import ray
      from ray import serve

      @serve.deployment
      class APIEntrypoint:
          def __call__(self, request):
              return "ok"

      app = APIEntrypoint.bind()
"""


def ours(**changes: object) -> str:
    """Return a good serveConfigV2 with parts of its application replaced."""
    config = json.loads(render(ServeValues(attention_heads=24)))
    config["applications"][0] |= changes
    return json.dumps(config)


def generator(**changes: object) -> str:
    return ours(deployments=[{"name": "VideoGenerator"} | changes])


@pytest.mark.filterwarnings("ignore")  # Ray's own modules warn as they are imported.
def test_keys_are_those_that_ray_reads() -> None:
    from ray.serve import schema

    for known, model in (
        (keys.TOP, schema.ServeDeploySchema),
        (keys.APPLICATION, schema.ServeApplicationSchema),
        (keys.DEPLOYMENT, schema.DeploymentSchema),
        (keys.ACTOR, schema.RayActorOptionsSchema),
        (keys.HTTP, schema.HTTPOptionsSchema),
        (keys.GRPC, schema.gRPCOptionsSchema),
        (keys.LOGGING, schema.LoggingConfig),
        (keys.TRACING, schema.TracingConfig),
    ):
        assert known.keys() == model.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("applications:\n  - name: [a\n", ["line 3, column 1", "not readable as YAML"]),
        ("a: b: c", ["line 1, column 5", "mapping values are not allowed"]),
        ("applications: []\n---\napplications: []", ["line 3, column 1", "second document", "reads only the first"]),
        ("", ["empty"]),
        ("- a", ["found a list", "key applications"]),
        ("applications: []", ["applications", "need a list of at least one"]),
        ("applications: [a]", ["applications[0]", "need a mapping"]),
        (
            "applications:\n- name: a\n  import_path: a:b\n  name: b",
            ["line 4, column 9", "written twice", "line 2, column 3"],
        ),
        ("applications: [{import_path: 'a:b'}]\nproxy_loc: EveryNode", ["line 2", "proxy_loc", "write proxy_location"]),
        ("applications: [{import_path: 'a:b', deploymets: []}]", ["applications[0].deploymets", "write deployments"]),
        (
            "applications: [{import_path: 'a:b', deployments: [{name: A, replicas: 2}]}]",
            ["deployments[0].replicas", "unknown key", "write num_replicas"],
        ),
        (
            "applications: [{import_path: 'a:b', deployments: [{name: A, ray_actor_options: {cpus: 2}}]}]",
            ["ray_actor_options.cpus", "write num_cpus"],
        ),
        ("applications: [{import_path: 'a:b'}]\nhttp_options: {prot: 1}", ["http_options.prot", "write port"]),
        ("applications: [{import_path: 'a:b'}]\nlogging_config: {level: 1}", ["logging_config.level", "log_level"]),
        ("applications: [{name: a}]", ["applications[0].import_path", "found None", "module:variable"]),
        ("applications: [{import_path: serve_app}]", ["import_path", "'serve_app'", "app.serve_app:app"]),
        ("applications: [{import_path: app/serve_app.py}]", ["import_path", "module:variable"]),
        (ours(route_prefix="video"), ["route_prefix", "'video'", "/video"]),
        (ours(route_prefix="/video/"), ["route_prefix", "without a slash at its end"]),
        (ours(route_prefix="/{id}"), ["route_prefix", "braces"]),
        (
            "applications: [{name: a, import_path: 'a:b'}, {name: b, import_path: 'a:b'}]",
            ["applications[1].route_prefix", "applications[0] too"],
        ),
        (
            "applications: [{name: a, import_path: 'a:b'}, {name: a, route_prefix: /b, import_path: 'a:b'}]",
            ["applications[1].name", "'a'"],
        ),
        (
            "applications: [{import_path: 'a:b', deployments: [{name: A}, {name: A}]}]",
            ["deployments[1].name", "A is listed twice"],
        ),
        ("applications: [{import_path: 'a:b', args: {x: yes}}]", ["args.x", "YAML 1.1 and 1.2", "quotes"]),
        ("applications: [{import_path: 'a:b', args: {x: 010}}]", ["args.x", "YAML 1.1 and 1.2"]),
        (ours(args={"device": "gpu"}), ["args.device", "'cuda' or 'cpu'", "'gpu'"]),
        (ours(args={"workers": 2}), ["args.workers", "unknown", *AppArgs.model_fields]),
        (generator(user_config={"total_workers": 7}), ["user_config.total_workers", "7 ranks", "1, 2, 3, 4, 6, 8"]),
        (generator(user_config={"total_workers": 0}), ["user_config.total_workers", "greater than or equal to 1"]),
        (generator(user_config={"ranks": 2}), ["user_config.ranks", "unknown"]),
        (ours(deployments=[{"name": "Generator"}]), ["deployments[0].name", "APIEntrypoint and VideoGenerator"]),
        (generator(num_replicas=0), ["deployments[0].num_replicas", "Ray refuses it", "greater than 0"]),
        (ours(runtime_env={"working_dir": "/code"}), ["runtime_env", "Ray refuses it"]),
    ],
)
def test_problem_names_the_place_what_was_found_and_the_remedy(text: str, words: list[str]) -> None:
    said = "\n".join(map(str, check_serve_config(text, with_ray=True)))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("values", "pods", "words"),
    [
        ({}, Pods(cpus=0.5, gpus=1), ["args", "has 0.5 CPUs", "APIEntrypoint 0.25", "set it to 1"]),
        ({}, Pods(cpus=8, gpus=0), ["args.device", "cuda", "no GPUs"]),
        (
            {"total_workers": 4},
            Pods(cpus=8, gpus=1, count=2),
            ["user_config.total_workers", "4 ranks need 4 worker pods", "there are 2"],
        ),
        ({}, Pods(cpus=8, gpus=1, count=3), ["deployments[0].num_replicas", "found 2", "3 worker pods", "write 3"]),
    ],
)
def test_what_cannot_fit_into_the_pods_is_told(values: dict[str, int], pods: Pods, words: list[str]) -> None:
    said = "\n".join(map(str, check_serve_config(render(ServeValues.model_validate(values)), pods)))
    for word in words:
        assert word in said


def test_more_gpus_than_the_pods_have_is_told_for_any_application() -> None:
    text = "applications: [{import_path: 'a:b', deployments: [{name: A, num_replicas: 5, ray_actor_options: %s}]}]"
    assert "need 5" in str(check_serve_config(text % "{num_gpus: 1}", Pods(8, 2, 2))[0])
    assert "asks for 3 GPUs" in str(check_serve_config(text % "{num_gpus: 3}", Pods(8, 2, 2))[0])


def test_inline_python_in_an_import_path_is_told_what_to_write() -> None:
    (problem,) = check_serve_config(INLINE, with_ray=False)
    assert (problem.line, problem.where) == (4, "applications[0].import_path")
    assert "holds Python code" in problem.message
    assert "import_path: app.serve_app:app" in problem.message


def test_inline_python_that_breaks_the_yaml_is_told_what_to_write() -> None:
    text = INLINE.replace("import_path: |", "python:")
    (problem,) = check_serve_config(text)
    assert "not readable as YAML" in problem.message
    assert "Line 5 looks like Python" in problem.message
    assert "import_path: app.serve_app:app" in problem.message


@pytest.mark.parametrize("text", ["from ray import serve\n", "def f():\n  return 1\n", "@serve.deployment\nclass A:\n"])
def test_nothing_but_python_is_told_what_to_write(text: str) -> None:
    assert "cannot hold Python" in str(check_serve_config(text)[0])


def test_good_text_of_somebody_else_passes() -> None:
    text = (
        "applications:\n- name: b\n  route_prefix: /b\n  import_path: some.module.app\n  args: {import: from, y: 2}\n"
    )
    assert check_serve_config(text, Pods(8, 1, 1), with_ray=True) == []


# The command line


def test_prints_what_render_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--total-workers", "8", "--gpus-per-worker", "8", "--attention-heads", "40"]) == 0
    values = ServeValues(total_workers=8, gpus_per_worker=8, attention_heads=40)
    assert capsys.readouterr().out == render(values)


def test_wrong_values_print_nothing_but_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--total-workers", "7", "--attention-heads", "40"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("totalWorkers (total_workers): 7 ranks")


@pytest.mark.parametrize(
    "arguments", [["--check", "/nowhere"], ["--import"], ["--pods", "2"], ["--check", "-", "--gangs", "2"], ["--bad"]]
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_stdin_is_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(INLINE))
    assert main(["--check", "-"]) == 1
    assert "line 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rayservice.yaml", "fills it in at admission"),
        ("rayservice-standalone.yaml", "no problem found"),
        ("raycluster.yaml", "the operator or a Job deploys it"),
    ],
)
def test_samples_pass(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(EXAMPLES / name)]) == 0
    assert words in capsys.readouterr().out


def test_standalone_sample_holds_what_is_rendered() -> None:
    sample = yaml.safe_load((EXAMPLES / "rayservice-standalone.yaml").read_text(encoding="utf-8"))
    assert sample["spec"]["serveConfigV2"] == render(ServeValues(worker_cpus=8, attention_heads=24))


def test_problem_in_a_manifest_has_the_line_of_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "rayservice-standalone.yaml").read_text(encoding="utf-8")
    file = tmp_path / "manifest.yaml"
    file.write_text(text.replace('"total_workers": 2', '"total_workers": 3'), encoding="utf-8")
    line = text[: text.index('"total_workers": 2')].count("\n") + 1
    assert main(["--check", str(file)]) == 1
    assert f"RayService wan22-rayservice: line {line}, column 34: " in capsys.readouterr().out


def test_rayservice_that_nobody_fills_in_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "rayservice.yaml").read_text(encoding="utf-8")
    file = tmp_path / "manifest.yaml"
    file.write_text(text.replace('wan22.dev/managed: "true"', 'a: "b"'), encoding="utf-8")
    assert main(["--check", str(file)]) == 1
    assert "spec.serveConfigV2: missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("def broken(:\n", ["SyntaxError", "broken_app.py, line 1"]),
        ("import not_installed_anywhere\n", ["no module not_installed_anywhere"]),
        ("from ray.train.torch import prepare_torch_process_group\n", ["broken_app.py, line 1"]),
        ("def app(args):\n    raise ValueError('no model')\n", ["ValueError", "broken_app.py, line 2", "no model"]),
        ("other = 1\n", ["broken_app:app", "AttributeError"]),
    ],
    ids=["syntax", "module", "name", "builder", "variable"],
)
@pytest.mark.slow  # It starts a Python that imports Ray.
def test_import_shows_python_errors_before_anything_is_applied(tmp_path: Path, module: str, words: list[str]) -> None:
    (tmp_path / "broken_app.py").write_text(module, encoding="utf-8")
    (tmp_path / "config.yaml").write_text("applications: [{name: a, import_path: 'broken_app:app'}]", encoding="utf-8")
    done = check_import(tmp_path, "config.yaml")
    assert done.returncode == 1
    for word in words:
        assert word in done.stdout


@pytest.mark.slow  # It starts a Python that imports Ray.
def test_import_builds_our_application(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(render(ServeValues()), encoding="utf-8")
    done = check_import(tmp_path, "config.json")
    assert (done.returncode, done.stdout) == (0, "config.json: serveConfigV2: no problem found\n")


def check_import(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_config", "--check", name, "--import"]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
