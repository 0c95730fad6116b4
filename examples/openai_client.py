"""Makes a video with OpenAI's Python client, which needs no change but its base URL.

    pip install openai
    python examples/openai_client.py                            # the service of `make run`
    python examples/openai_client.py http://video.example:8000  # any other

It writes video.mp4 and thumbnail.webp into the current folder.
"""

import sys
import warnings

from openai import OpenAI

# OpenAI's own service of this shape has ended, and the client says so at every call.
warnings.filterwarnings("ignore", "The Sora API", DeprecationWarning)


def main(url: str = "http://localhost:8000") -> None:
    """Make one video and download it."""
    # The service asks for no key, but the client insists on one.
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        # size=, seconds= and input_reference= (a picture) work, too; extra_body takes every field of POST /generate.
        video = client.videos.create_and_poll(
            prompt="a red circle moving right on a blue ground", extra_body={"seed": 7}
        )
        if video.error:
            sys.exit(f"{video.id} {video.status}: {video.error.code}: {video.error.message}")
        print(f"{video.id}: {video.seconds} s of {video.size} by {video.model}")
        client.videos.download_content(video.id).write_to_file("video.mp4")
        client.videos.download_content(video.id, variant="thumbnail").write_to_file("thumbnail.webp")


if __name__ == "__main__":
    main(*sys.argv[1:])
