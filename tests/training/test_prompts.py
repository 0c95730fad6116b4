"""Prompts say one scene each, in two languages, and the held-out ones are kept from training."""

import random

import pytest

from training.prompts import HELD_OUT_FILE, Wish, held_out_prompts, phrase, understand
from training.scenes import all_scenes, held_out_scenes, training_scenes


def test_every_phrasing_is_understood() -> None:
    rng = random.Random(0)
    for scene in all_scenes():
        for unseen in (False, False, False, True):
            prompt = phrase(scene, rng, unseen)
            wish = understand(prompt)
            assert (wish.shape, wish.colour, wish.motion) == (scene.shape, scene.colour, scene.motion), prompt
            assert wish.ground in (None, scene.ground), prompt


@pytest.mark.parametrize(
    ("prompt", "wish"),
    [
        ("a red circle moving left on a blue ground", Wish("circle", "red", "blue", "left")),
        ("蓝色背景上一个红色的圆向左移动", Wish("circle", "red", "blue", "left")),
        ("a triangle", Wish("triangle", None, None, None)),
        ("", Wish(None, None, None, None)),
    ],
)
def test_what_a_prompt_asks_for(prompt: str, wish: Wish) -> None:
    assert understand(prompt) == wish


def test_the_file_holds_the_held_out_prompts() -> None:
    assert HELD_OUT_FILE.read_text().splitlines() == held_out_prompts()


def test_no_held_out_scene_is_trained_on() -> None:
    assert len(set(held_out_scenes())) == 100
    assert not set(held_out_scenes()) & set(training_scenes())
    assert {*held_out_scenes(), *training_scenes()} == set(all_scenes())


def test_held_out_prompts_are_in_both_languages() -> None:
    chinese = sum(not prompt.isascii() for prompt in held_out_prompts())
    assert 30 <= chinese <= 70
