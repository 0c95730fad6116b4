"""Which images are accepted, what the others are told, and how a picture is fitted to a video."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.media import images
from app.model.folder import ModelFolder
from app.tasks.task_config import TaskImage
from tests.app.media.pictures import encoded, png_header


@pytest.mark.parametrize("kind", images.FORMATS)
def test_each_format_is_accepted(kind: str) -> None:
    facts = images.inspect(encoded(kind))
    assert (facts.format, facts.width, facts.height) == (kind, 80, 40)
    assert len(facts.sha256) == 64


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16", "1"])
def test_every_kind_of_pixel_becomes_rgb(mode: str) -> None:
    content = encoded("PNG", mode=mode)
    images.inspect(content)
    assert images.fitted(content, 32, 32).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 bytes"),
        (b"x" * (images.MAX_BYTES + 1), f"found {images.MAX_BYTES + 1} bytes"),
        (encoded("GIF"), "found a GIF of"),
        (encoded("BMP"), "found a BMP of"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "found a HEIC of 32 bytes; allowed is PNG, JPEG or WebP"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "found an AVIF of 32 bytes"),
        (b"hello", "found no known picture of 5 bytes"),
        (encoded("JPEG", (400, 400))[:400], "found a damaged picture"),
        (encoded("PNG", (400, 400))[:-40], "found a damaged picture"),
        (png_header(6000, 5000), "found 6000x5000 pixels"),
    ],
)
def test_what_is_refused_is_told_what_it_is_and_what_is_allowed(content: bytes, message: str) -> None:
    with pytest.raises(images.InvalidImageError) as caught:
        images.inspect(content)
    assert message in str(caught.value)
    assert "PNG, JPEG or WebP, at most 10 MiB and 25 million pixels" in str(caught.value)


def test_a_picture_is_turned_upright_before_it_is_measured_and_fitted() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    content = encoded("JPEG", (80, 40), exif=turned)
    facts = images.inspect(content)
    assert (facts.width, facts.height) == (40, 80)


def test_a_picture_is_cut_around_its_middle_not_stretched() -> None:
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    file = io.BytesIO()
    wide.save(file, "PNG")
    darkest = min(images.fitted(file.getvalue(), 64, 64).convert("L").tobytes())
    assert darkest > 230, "the black sides are gone"


def test_base64_may_be_a_data_url() -> None:
    text = base64.b64encode(b"picture").decode()
    assert images.decode_base64(text) == images.decode_base64(f"data:image/png;base64,{text}") == b"picture"


@pytest.mark.parametrize("text", ["no base64!", "a" * 15_000_000])
def test_a_string_that_is_no_image_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="allowed is PNG, JPEG or WebP"):
        GenerateRequest.model_validate({"image": text})


@pytest.fixture(scope="module")
def image() -> TaskImage:
    return TaskImage(**images.inspect(encoded("PNG", (200, 100))).as_dict(), path="a/image")


def test_a_text_model_refuses_an_image_by_name(tiny_model: Path, image: TaskImage) -> None:
    with pytest.raises(InvalidRequestError, match=r"image: This model .* text alone \(WanPipeline; found a PNG of 200"):
        GenerateRequest().complete(ModelFolder.read(str(tiny_model)), image)


def test_an_image_model_asks_for_its_image(image_model: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"image: .* from a picture \(WanImageToVideoPipeline\) and none was"):
        GenerateRequest().complete(ModelFolder.read(str(image_model)))


def test_a_model_for_both_takes_either(text_or_image_model: Path, image: TaskImage) -> None:
    model = ModelFolder.read(str(text_or_image_model))
    assert GenerateRequest().complete(model).image is None
    assert GenerateRequest().complete(model, image).image == image


def test_a_video_takes_the_pictures_proportions_unless_a_side_is_given(image_model: Path, image: TaskImage) -> None:
    model = ModelFolder.read(str(image_model))
    config = GenerateRequest().complete(model, image)
    assert (config.width, config.height) == (80, 32)  # of about 64 x 64 pixels, in steps of 16
    config = GenerateRequest(width=64).complete(model, image)
    assert (config.width, config.height) == (64, 64)


def test_an_image_counts_by_its_content(image: TaskImage) -> None:
    content = encoded("PNG", (200, 100))
    as_text = GenerateRequest.model_validate({"image": base64.b64encode(content).decode(), "fps": 8})
    as_file = GenerateRequest.model_validate({"image": content, "fps": "8"})
    assert as_text.body(image) == as_file.body(image) == {"fps": 8, "image": image.sha256}
