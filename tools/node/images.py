"""Brings images to the node: a base made of Debian's packages, and the project's own two on top of it.

The node reaches no registry. The base is also its pause image, and holds a redis-server for the chart's Redis.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.images import IMAGES, ImageError, build
from tools.node.place import BASE_IMAGE, Place

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "redis-server", "redis-tools", "wget")


def load(place: Place) -> list[str]:
    """Build what is missing or changed and import it into the running node; return the names of what was imported.

    Raises:
        ImageError: an image cannot be built or imported.
    """
    if not _id(BASE_IMAGE):
        _make_base(place)
    names = [BASE_IMAGE, *(build(image, BASE_IMAGE, "buildah") for image in IMAGES)]
    wanted = {name: _id(name) for name in names}
    has = _imported(place)
    new = [name for name in names if has.get(name) != wanted[name]]
    for name in new:
        _import(place, name)
        has[name] = wanted[name]
        (place.root / "images.json").write_text(json.dumps(has))
    return new


def _make_base(place: Place) -> None:
    started = time.monotonic()
    print(f"building {BASE_IMAGE} of Debian's packages ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=place.root, prefix=".base-") as folder:
        packages = f"--include={','.join(PACKAGES)}"
        _run("debootstrap", "--variant=minbase", "--components=main", packages, SUITE, folder)
        # What apt left behind is of no use in an image.
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
            _run("find", f"{folder}/{leftover}", "-type", "f", "-delete")
        container = _run("buildah", "from", "scratch")
        _run("buildah", "add", "--quiet", container, folder, "/")
        settings = ["--env=PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"]
        # A pause container runs this; images built on top say something else.
        _run("buildah", "config", *settings, '--cmd=["sleep", "infinity"]', container)
        _run("buildah", "commit", "--quiet", "--rm", container, BASE_IMAGE)
    print(f"built {BASE_IMAGE} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _import(place: Place, name: str) -> None:
    """Copy an image from buildah's store to containerd's, where Kubernetes finds it under its full name."""
    started = time.monotonic()
    full = name if "/" in name else f"docker.io/library/{name}"
    with tempfile.TemporaryDirectory(dir=place.root, prefix=".import-") as folder:
        archive = Path(folder, "image.tar")
        _run("buildah", "push", "--quiet", name, f"docker-archive:{archive}:{full}")
        ctr = ("ctr", f"--address={place.socket}", "--namespace=k8s.io")
        _run(*ctr, "images", "import", str(archive))
    print(f"imported {name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _imported(place: Place) -> dict[str, str]:
    """Return the ids of the images that the node was given, as far as its store still holds them."""
    known = place.root / "images.json"
    if not known.exists():
        return {}
    listed = _run("ctr", f"--address={place.socket}", "--namespace=k8s.io", "images", "list", "--quiet").splitlines()
    found: dict[str, str] = json.loads(known.read_text())
    return {name: value for name, value in found.items() if any(one.endswith(name) for one in listed)}


def _id(name: str) -> str:
    """Return the id of an image in buildah's store, empty if it is not there."""
    command = ["buildah", "inspect", "--type=image", "--format={{.FromImageID}}", name]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not here; apt-get install {command[0]}") from None
    if done.returncode:
        raise ImageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()
