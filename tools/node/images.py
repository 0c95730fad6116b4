"""Brings images to the node: a base made of Debian's packages, and the project's own two on top of it.

The node reaches no registry. The base is also its pause image, and holds a redis-server for the chart's Redis.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.images import IMAGES, ImageError, build
from tools.node.place import BASE_IMAGE, Place

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "redis-server", "redis-tools", "wget")
# A pause container runs the command; images built on top say something else.
SETTINGS = ("--env=PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", '--cmd=["sleep", "infinity"]')
LABEL = "wan22.dev/recipe"


def load(place: Place) -> list[str]:
    """Build what is missing or changed and import it into the running node; return the names of what was imported.

    Raises:
        ImageError: an image cannot be built or imported.
    """
    with _one_at_a_time(place):
        make_base(place)
        names = [BASE_IMAGE, *(build(image, BASE_IMAGE, "buildah") for image in IMAGES)]
        wanted = {name: _inspect("{{.FromImageID}}", name) for name in names}
        has = _imported(place)
        new = [name for name in names if has.get(name) != wanted[name]]
        for name in new:
            _import(place, name)
            has[name] = wanted[name]
            _record(place).write_text(json.dumps(has))
        return new


def make_base(place: Place) -> None:
    """Build the base image unless it is there, made as is said here."""
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, SETTINGS)).encode()).hexdigest()[:12]
    if _inspect(f'{{{{index .OCIv1.Config.Labels "{LABEL}"}}}}', BASE_IMAGE) == recipe:
        return
    started = time.monotonic()
    print(f"building {BASE_IMAGE} of Debian's packages ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=place.root, prefix=".base-") as folder:
        packages = f"--include={','.join(PACKAGES)}"
        _run("debootstrap", "--variant=minbase", "--components=main", packages, SUITE, folder)
        # What apt left behind is of no use in an image.
        for leftover in ("var/cache/apt", "var/lib/apt/lists"):
            _run("find", f"{folder}/{leftover}", "-type", "f", "-delete")
        container = _run("buildah", "from", "scratch")
        _run("buildah", "add", "--quiet", container, folder, "/")
        _run("buildah", "config", *SETTINGS, f"--label={LABEL}={recipe}", container)
        _run("buildah", "commit", "--quiet", "--rm", container, BASE_IMAGE)
    print(f"built {BASE_IMAGE} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _import(place: Place, name: str) -> None:
    """Copy an image from buildah's store to containerd's, where Kubernetes finds it under its full name.

    An OCI layout keeps blobs as containerd does. Seen through hard links, those that containerd has are in the layout
    already: buildah adds the new ones, and they alone are sent.
    """
    started = time.monotonic()
    full = name if "/" in name else f"docker.io/library/{name}"
    with tempfile.TemporaryDirectory(dir=place.root, prefix=".import-") as folder:
        blobs = Path(folder, "blobs", "sha256")
        blobs.mkdir(parents=True)
        known = {path.name: path for path in _content(place).glob("*") if len(path.name) == 64}
        for digest, path in known.items():
            os.link(path, blobs / digest)
        # Layers stay as they are: nothing is gained by packing what is unpacked at once.
        _run("buildah", "push", "--quiet", "--disable-compression", name, f"oci:{folder}")
        index = json.loads(Path(folder, "index.json").read_text())
        index["manifests"][0]["annotations"] = {"io.containerd.image.name": full}
        Path(folder, "index.json").write_text(json.dumps(index))
        ctr = ["ctr", f"--address={place.socket}", "--namespace=k8s.io", "images", "import", "-"]
        with subprocess.Popen(ctr, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdin
            assert process.stdout
            with contextlib.suppress(BrokenPipeError), tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                for file in ("oci-layout", "index.json"):
                    archive.add(Path(folder, file), file)
                for blob in sorted(blobs.iterdir()):
                    if blob.name not in known:
                        archive.add(blob, f"blobs/sha256/{blob.name}")
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            said = process.stdout.read().decode(errors="replace")
        if process.returncode:
            raise ImageError(f"{name} cannot be imported: {said.strip()[-2000:]}")
    print(f"imported {name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _imported(place: Place) -> dict[str, str]:
    """Return the ids of the images that the node was given, as far as its store still holds them."""
    if not _record(place).exists():
        return {}
    listed = _run("ctr", f"--address={place.socket}", "--namespace=k8s.io", "images", "list", "--quiet").splitlines()
    found: dict[str, str] = json.loads(_record(place).read_text())
    return {name: value for name, value in found.items() if any(one.endswith(name) for one in listed)}


def _record(place: Place) -> Path:
    return place.root / "images.json"


def _content(place: Place) -> Path:
    return place.images / "io.containerd.content.v1.content" / "blobs" / "sha256"


@contextlib.contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    with open(place.root / "images.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _inspect(what: str, name: str) -> str:
    """Return one thing that buildah's store knows of an image, empty if it has none of that name."""
    command = ["buildah", "inspect", "--type=image", f"--format={what}", name]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not here; apt-get install {command[0]}") from None
    if done.returncode:
        raise ImageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()
