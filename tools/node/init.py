"""First process inside the node's namespaces: starts the supervisor and buries what loses its parent.

When it ends, the kernel ends every other process of the node. It imports nothing of the project.
"""

import os
import sys


def main() -> int:
    """Run ``python -m tools.node.supervisor`` with the given arguments, and return its exit status."""
    supervisor = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "tools.node.supervisor", *sys.argv[1:]], os.environ
    )
    while True:
        ended, status = os.wait()
        if ended == supervisor:
            return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
