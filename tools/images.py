"""``python -m tools.images``: builds the project's two images from the Dockerfile, with docker or buildah.

``BASE_IMAGE`` replaces the Dockerfile's own base, for machines that reach no registry.
"""

import os
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's programs look for certificates of authorities, inside an image too."""


class ImageError(RuntimeError):
    """An image cannot be built or moved; the message says what to do."""


@dataclass(frozen=True)
class Image:
    """One target of the Dockerfile and the repository that the chart looks for it in."""

    target: str
    repository: str

    @property
    def name(self) -> str:
        return f"{self.repository}:{version()}"


IMAGES = (Image("app", "wan22-rayservice"), Image("operator", "wan22-operator"))


def version() -> str:
    """Return the project's version, which is the images' tag and the chart's appVersion."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def engine() -> str:
    """Return the program that builds images here: docker where its engine answers, else buildah.

    Raises:
        ImageError: there is neither.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    raise ImageError("images are built by docker or buildah, and neither is here; apt-get install buildah")


def build(image: Image, base: str | None = None, with_: str | None = None) -> str:
    """Build an image and return its name; layers that did not change are taken from the engine's cache.

    Args:
        image: what to build.
        base: base image instead of the Dockerfile's.
        with_: ``docker`` or ``buildah``; whichever is there if none is named.

    Raises:
        ImageError: the build failed; its output has been shown.
    """
    with_ = with_ or engine()
    command = ["docker", "build"] if with_ == "docker" else ["buildah", "build", "--isolation=chroot", "--layers"]
    command += [f"--target={image.target}", f"--tag={image.name}"]
    if base:
        command.append(f"--build-arg=BASE_IMAGE={base}")
    if with_ == "buildah" and (bundle := _bundle()):
        # A machine behind a proxy trusts its certificate; so do the build's steps, and the image keeps its own.
        command.append(f"--volume={bundle}:{BUNDLE}:ro")
    started = time.monotonic()
    print(f"building {image.name} ...", file=sys.stderr, flush=True)
    done = subprocess.run([*command, str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ImageError(f"{image.name} cannot be built with {with_}:\n{done.stdout[-3000:]}")
    print(f"built {image.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return image.name


def _bundle() -> str | None:
    path = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or BUNDLE
    return path if Path(path).exists() else None


def main() -> int:
    """Build both images and return the exit status."""
    try:
        for image in IMAGES:
            print(build(image, os.environ.get("BASE_IMAGE")))
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
