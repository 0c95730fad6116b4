"""Brings images to the node: a base made of Debian's packages, and the project's own two on top of it.

The node reaches no registry. The base is also its pause image, and holds a redis-server for the chart's Redis.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.images import IMAGES, ImageError, build
from tools.node.place import BASE_IMAGE, Place

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "g++", "python3", "python3-dev", "python3-venv", "redis-server", "redis-tools", "wget")
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
        return bring(place, *names)


def bring(place: Place, *names: str) -> list[str]:
    """Import images of buildah's store into the running node; return the names of those that it had not."""
    has = _imported(place)
    new = [image for image in map(stored, names) if has.get(image.full_name) != image.digest]
    for image in new:
        _import(place, image)
    return [image.name for image in new]


def make_base(place: Place) -> None:
    """Build the base image unless it is there, made as is said here."""
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, SETTINGS)).encode()).hexdigest()[:12]
    with contextlib.suppress(ImageError):
        if json.loads(stored(BASE_IMAGE).config)["config"].get("Labels", {}).get(LABEL) == recipe:
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


@dataclass(frozen=True)
class Stored:
    """An image in buildah's store: what names it, and the texts of its manifest and its configuration."""

    name: str
    manifest: bytes
    config: bytes

    @property
    def full_name(self) -> str:
        """The name that Kubernetes looks for."""
        return self.name if "/" in self.name else f"docker.io/library/{self.name}"

    @property
    def digest(self) -> str:
        return _digest(self.manifest)

    @property
    def layers(self) -> dict[str, int]:
        """Size of each layer by its digest."""
        return {layer["digest"]: layer["size"] for layer in json.loads(self.manifest)["layers"]}


def stored(name: str) -> Stored:
    """Return an image of buildah's store."""
    found = json.loads(_run("buildah", "inspect", "--type=image", name))
    return Stored(name, found["Manifest"].encode(), found["Config"].encode())


def _import(place: Place, image: Stored) -> None:
    """Copy an image to containerd's store: an OCI archive, written as it is sent, of the layers that it lacks."""
    started = time.monotonic()
    has = {f"sha256:{path.name}" for path in _content(place).glob("*")}
    layers = json.loads(_run("containers-storage", "layers", "--json"))
    ids = {layer["diff-digest"]: layer["id"] for layer in layers if "diff-digest" in layer}
    named = {"io.containerd.image.name": image.full_name}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"mediaType": kind, "digest": image.digest, "size": len(image.manifest), "annotations": named}
    index = {"schemaVersion": 2, "manifests": [manifest]}
    sent = 0
    command = _ctr(place, "images", "import", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
        assert ctr.stdin
        assert ctr.stdout
        # Where ctr ends early, it says why.
        with contextlib.suppress(BrokenPipeError):
            with tarfile.open(fileobj=ctr.stdin, mode="w|") as archive:
                _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
                _add(archive, "index.json", json.dumps(index).encode())
                for text in (image.manifest, image.config):
                    _add(archive, _blob(_digest(text)), text)
                for digest, size in image.layers.items():
                    if digest not in has:
                        _add_layer(archive, ids[digest], _blob(digest), size)
                        sent += size
            ctr.stdin.close()
        said = ctr.stdout.read().decode(errors="replace")
    if ctr.returncode:
        raise ImageError(f"{image.name} cannot be imported: {said.strip()[-2000:]}")
    took = time.monotonic() - started
    print(f"imported {image.name} in {took:.0f} s ({sent >> 20} MiB were new)", file=sys.stderr, flush=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _add_layer(archive: tarfile.TarFile, layer: str, name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    command = ["containers-storage", "diff", "--uncompressed", layer]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as diff:
        archive.addfile(member, diff.stdout)


def _blob(digest: str) -> str:
    return digest.replace("sha256:", "blobs/sha256/")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _imported(place: Place) -> dict[str, str]:
    """Return the digests of the images that the node has, by their names."""
    rows = [line.split() for line in _run(*_ctr(place, "images", "list")).splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def _ctr(place: Place, *arguments: str) -> list[str]:
    return ["ctr", f"--address={place.socket}", "--namespace=k8s.io", *arguments]


def _content(place: Place) -> Path:
    return place.images / "io.containerd.content.v1.content" / "blobs" / "sha256"


@contextlib.contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    with open(place.root / "images.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not here; apt-get install {command[0]}") from None
    if done.returncode:
        raise ImageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()
