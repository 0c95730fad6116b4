"""``kubectl wan22`` as a user types it: kubectl finds the plugin on the PATH and runs it."""

import os
import subprocess
import sys
from pathlib import Path

import tools

ROOT = Path(__file__).parents[1]


def kubectl_wan22(kubeconfig: Path, folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the plugin in ``folder``, which gets kubectl and the plugin as programs."""
    programs = folder / "programs"
    if not programs.exists():
        programs.mkdir()
        (programs / "kubectl").symlink_to(tools.binary("kubectl"))
        plugin = programs / "kubectl-wan22"
        plugin.write_text(f'#!/bin/sh\nexec {sys.executable} -m wan22_cli.kubectl_plugin "$@"\n')
        plugin.chmod(0o755)
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "HOME": str(folder),
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT}",
    }
    command = [str(programs / "kubectl"), "wan22", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
