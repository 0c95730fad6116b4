"""``python -m tools build [NAME...]``, ``path NAME`` and ``list``."""

import argparse
import subprocess
import sys

from tools.build import ensure
from tools.catalog import CLUSTER, NODE, TOOLS
from tools.find import MissingToolError, binary, lookup


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing; all that a control plane needs if none is named")
    build.add_argument("names", nargs="*", metavar="NAME")
    build.add_argument("--node", action="store_true", help="also what a node with running pods needs")
    path = commands.add_parser("path", help="print where a tool is")
    path.add_argument("name", metavar="NAME")
    commands.add_parser("list", help="print every tool's name")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "build":
                chosen = [lookup(name) for name in options.names] or [*CLUSTER, *(NODE if options.node else ())]
                for tool in chosen:
                    print(f"{tool.name}: {ensure(tool)}", flush=True)
            case "path":
                print(binary(options.name))
            case "list":
                print("\n".join(TOOLS))
    except (MissingToolError, subprocess.CalledProcessError) as error:
        print(f"tools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
