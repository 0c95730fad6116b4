"""``kubectl wan22``: the commands of ``wan22`` for a release on a cluster, and those about the release itself.

kubectl finds the program kubectl-wan22 by its name.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from wan22_operator import constants as names

from wan22_cli.__main__ import add_commands, program
from wan22_cli.cluster import Kubectl, Release
from wan22_cli.output import Output, fields_table, gang_table
from wan22_cli.parameters import OF_CONNECTION, as_command
from wan22_cli.problems import Exit, Problem
from wan22_cli.service import Service

NAME = "kubectl wan22"
POLL_SECONDS = 2.0
LOOK_SECONDS = 20.0
"""How long a refusal that was there before a change counts as old: the operator looks at a change within it."""

Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Its namespace; by default the context's.",
        show_default=False,
        rich_help_panel=OF_CONNECTION,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="RayService or RayCluster; by default the only one.", show_default=False, rich_help_panel=OF_CONNECTION
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        help="Context of the kubeconfig; by default the current one.", show_default=False, rich_help_panel=OF_CONNECTION
    ),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        help="Kubeconfig file; by default KUBECONFIG, or ~/.kube/config.",
        show_default=False,
        rich_help_panel=OF_CONNECTION,
    ),
]


@contextmanager
def release(
    namespace: Namespace = None, name: Name = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> Iterator[Release]:
    """Yield the release that the options name."""
    yield Release(Kubectl(namespace, context, kubeconfig), name)


@contextmanager
def service(
    namespace: Namespace = None, name: Name = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> Iterator[Service]:
    """Yield the service of the release that the options name."""
    with reached(Release(Kubectl(namespace, context, kubeconfig), name)) as found:
        yield found


def reached(found: Release) -> Service:
    """Return the service of a release, reached by a port-forward."""
    usage = f"{NAME} {{}} -n {found.kubectl.namespace}"
    return Service(found.forward(), f"`{usage.format('doctor')}` finds out why.", usage)


def scale(
    to: Release,
    output: Output,
    workers: Annotated[int | None, typer.Option(min=1, help="Ranks of each gang.", show_default=False)] = None,
    gangs: Annotated[int | None, typer.Option(min=1, help="Gangs.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the gangs have these counts.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait.")] = 1800,
) -> Exit:
    """Change the number of ranks or gangs while the service runs, and wait until it has them. No task is lost."""
    wanted = {"totalWorkers": workers, "gangs": gangs}
    counts = {name: value for name, value in wanted.items() if value is not None}
    if not counts:
        raise Problem(Exit.REFUSED, "Nothing to change: give --workers, --gangs, or both.", "usage")
    if not to.target.obj.managed:
        message = (
            f"{to.target.title} does not follow the operator: it lacks the label {names.MANAGED}=true. Set it, or "
            "change the counts in its manifest."
        )
        raise Problem(Exit.REFUSED, message, "unmanaged")
    annotations = {"totalWorkers": names.TOTAL_WORKERS, "gangs": names.GANGS}
    before = to.report()
    to.annotate({annotations[name]: value for name, value in counts.items()})
    began = time.monotonic()
    report = to.report()
    words = report.words()
    with Console(stderr=True).status("") as status:
        while wait and not report.reached(counts):
            status.update(f"{to.target.title}: {words}")
            waited = time.monotonic() - began
            if report.phase == "refused" and (report != before or waited > LOOK_SECONDS):
                raise Problem(Exit.NO, f"{to.target.title}: {report.words()}", "refused")
            if waited > timeout:
                message = f"{to.target.title} after {timeout:g} s (--timeout): {words}. The change goes on."
                raise Problem(Exit.SILENT, message, "timeout")
            time.sleep(POLL_SECONDS)
            try:
                report = to.report()
                words = report.words()
            except Problem as problem:
                if problem.status != Exit.SILENT:
                    raise
                # An API server that restarts ends no change.
                words = str(problem)
    output.result({"object": to.target.resource, "status": report.value}, f"{to.target.title}: {report.words()}")
    return Exit.DONE


def status(to: Release, output: Output) -> Exit:
    """Show what the operator reports, and each gang. The exit status is 0 if the release is ready."""
    report = to.report()
    with reached(to) as found:
        try:
            readiness, why = found.readiness(), ""
        except Problem as problem:
            readiness, why = None, str(problem)
    if readiness is not None:
        why = "ready" if readiness["ready"] else f"not ready: {readiness['message']}"
    value = {"object": to.target.resource, "namespace": to.kubectl.namespace, "status": report.value or None}
    lines = {
        "object": f"{to.target.title} in namespace {to.kubectl.namespace}",
        "operator": report.words(),
        "service": why,
    }
    gangs = (readiness or {}).get("gangs") or []
    output.result(value | {"readiness": readiness}, fields_table(lines), *([gang_table(gangs)] if gangs else []))
    # Without an operator, the service alone says whether all is well.
    ready = bool(readiness and readiness["ready"]) and report.phase in ("ready", "")
    return Exit.DONE if ready else Exit.NO


def doctor(arguments: typer.Context) -> None:
    """Report what is wrong with a release and what to do."""
    try:
        from wan22_doctor.__main__ import main as examine
    except ModuleNotFoundError as error:
        print(f"{NAME} doctor: {error}; install the extra doctor: pip install '.[doctor]'", file=sys.stderr)
        raise typer.Exit(int(Exit.REFUSED)) from None
    raise typer.Exit(examine(arguments.args, f"{NAME} doctor"))


def plugin(completion: bool = False) -> typer.Typer:
    """Return the program; with ``completion`` it answers a shell, which needs options that are not for users here."""
    app = program(NAME, "Make videos with a wan22 service on a cluster, and look after it.", add_completion=completion)
    add_commands(app, service)
    app.command()(as_command(scale, release))
    app.command()(as_command(status, release))
    # Its options are the doctor's own, --help too.
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
        add_help_option=False,
    )(doctor)
    return app


def main() -> None:
    """Run the plugin with the arguments after "wan22"."""
    # kubectl's port-forwards end with this program, whatever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plugin()(prog_name=NAME)


def complete() -> None:
    """Print what may follow the arguments, the last of which is incomplete, as kubectl asks its plugins for it."""
    os.environ |= {
        "_WAN22_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(["wan22", *sys.argv[1:]]),
        "COMP_CWORD": str(len(sys.argv) - 1),
    }
    try:
        plugin(completion=True)(prog_name=NAME, complete_var="_WAN22_COMPLETE")
    finally:
        # The shell completes names of files where there is nothing else.
        print(":0")


if __name__ == "__main__":
    main()
