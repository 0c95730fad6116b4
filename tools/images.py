"""``python -m tools.images``: builds the project's two images from the Dockerfile, with docker or buildah.

``BASE_IMAGE`` replaces the Dockerfile's own base, for machines that reach no registry.
"""

import configparser
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


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
        ImageError: the build failed; the message has the end of its output.
    """
    with_ = with_ or engine()
    command = ["docker", "build"]
    if with_ == "buildah":
        command = ["buildah", "build", "--isolation=chroot", "--layers", "--force-rm"]
    command += [f"--target={image.target}", f"--tag={image.name}"]
    command += [f"--build-arg={name}" for name in PROXIES if name in os.environ]
    if base:
        command.append(f"--build-arg=BASE_IMAGE={base}")
    started = time.monotonic()
    print(f"building {image.name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in secrets(Path(folder)).items():
            command.append(f"--secret=id={name},src={path}")
        # Docker before 23 builds without BuildKit, and so without secrets, unless it is told.
        environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        done = subprocess.run(
            [*command, str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
    if done.returncode:
        raise ImageError(f"{image.name} cannot be built with {with_}:\n{done.stdout[-3000:]}")
    print(f"built {image.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return image.name


def secrets(folder: Path) -> dict[str, Path]:
    """Return what the build's steps need of this machine and no image keeps, by the Dockerfile's names for it.

    These are its certificates (it may stand behind a proxy that has its own) and its package index, if it is not PyPI.
    """
    found = {}
    bundle = Path(os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or BUNDLE)
    if bundle.exists():
        found["ca"] = bundle
    if index := _index():
        found |= {"pip": folder / "pip.conf", "uv": folder / "uv.toml"}
        found["pip"].write_text(f"[global]\nindex-url = {index}\n", encoding="utf-8")
        found["uv"].write_text(f'[[index]]\nurl = "{index}"\ndefault = true\n', encoding="utf-8")
    return found


def _index() -> str | None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name]
    settings = configparser.ConfigParser(interpolation=None)
    own = os.environ.get("PIP_CONFIG_FILE") or Path.home() / ".config/pip/pip.conf"
    settings.read(["/etc/pip.conf", own], encoding="utf-8")
    return settings.get("global", "index-url", fallback=None)


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
