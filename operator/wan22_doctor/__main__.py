"""``wan22-doctor -n NAMESPACE [NAME]``, also as ``kubectl wan22 doctor``.

Exit status: 0 healthy, 1 something is wrong, 2 nothing wrong was found but not everything could be checked.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console

from wan22_doctor import report
from wan22_doctor.checks import judge
from wan22_doctor.cluster import CannotRunError, Cluster
from wan22_doctor.facts import Facts
from wan22_doctor.gather import Options, gather


def main(arguments: Sequence[str] | None = None, program: str = "wan22-doctor") -> int:
    """Run the command line and return its exit status; ``program`` is the name that its usage shows."""
    return _run(_parser(program).parse_args(arguments))


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Check a RayService or RayCluster and all that it needs; report what is wrong and what to do.",
        epilog="Exit status: 0 healthy, 1 something is wrong, 2 nothing wrong was found but not everything could be "
        "checked. The doctor must be allowed to read objects and to run programs in pods (create pods/exec); with "
        "--no-request it changes nothing.",
    )
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="RayService or RayCluster; default: the only one"
    )
    parser.add_argument("-n", "--namespace", default="", help="its namespace; default: the context's")
    parser.add_argument("--context", default="", help="context of the kubeconfig; default: the current one")
    parser.add_argument("--kubeconfig", default="", help="kubeconfig file; default: KUBECONFIG, or ~/.kube/config")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-request", action="store_true", help="submit no task")
    parser.add_argument("--timeout", type=float, default=120, help="seconds that the task may take (default: 120)")
    return parser


def _run(options: argparse.Namespace) -> int:
    # The doctor itself reports an answer that the client cannot read.
    logging.getLogger("kubernetes").setLevel(logging.ERROR)
    console, began = Console(), time.monotonic()
    try:
        with Console(stderr=True).status("asking the API server") as status:
            facts = asyncio.run(_gather(options, lambda waiting: status.update(f"waiting for: {waiting}")))
    except CannotRunError as error:
        print(f"wan22-doctor: {error}", file=sys.stderr)
        return 2
    findings, seconds = judge(facts), time.monotonic() - began
    if options.json:
        print(report.as_json(facts, findings, seconds))
    else:
        report.show(console, facts, findings, seconds)
    return report.exit_status(findings)


async def _gather(options: argparse.Namespace, tell: Callable[[str], None]) -> Facts:
    cluster = await Cluster.connect(options.namespace, options.kubeconfig, options.context)
    try:
        return await gather(cluster, Options(options.name, not options.no_request, options.timeout), tell)
    finally:
        await cluster.close()


if __name__ == "__main__":
    sys.exit(main())
