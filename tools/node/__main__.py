"""``python -m tools.node up``, ``down``, ``config`` and ``images``."""

import argparse
import subprocess
import sys
import time

from tools.find import MissingToolError
from tools.images import ImageError
from tools.node import host, images, place


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the node, unless it runs, and give it the project's images")
    commands.add_parser("down", help="end it with everything in it; its images stay for the next time")
    commands.add_parser("config", help="print the path of its kubeconfig")
    options = parser.parse_args(arguments)
    here = place.default()
    started = time.monotonic()
    try:
        match options.command:
            case "up":
                new = host.up(here)
                print(f"node: {'started' if new else 'runs already'} ({time.monotonic() - started:.0f} s)", flush=True)
                loaded = images.load(here)
                print(f"images: {', '.join(loaded) or 'all there'} ({time.monotonic() - started:.0f} s)")
                print(f"export KUBECONFIG={here.kubeconfig}")
            case "down":
                print("node: ended" if host.down(here) else "node: there was none")
            case "config":
                print(here.kubeconfig)
    except (host.HostError, MissingToolError, ImageError, subprocess.CalledProcessError) as error:
        print(f"node: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
