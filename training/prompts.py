"""Phrases requests for a scene in English and Chinese, and parses what a prompt asks for."""

# ruff: noqa: RUF001 (Chinese prompts have Chinese punctuation)

import random
import re
from dataclasses import dataclass
from pathlib import Path

from training.scenes import Scene, held_out_scenes

HELD_OUT_FILE = Path(__file__).with_name("held_out_prompts.txt")
"""The prompts that ``held_out_prompts`` returns, one per line."""

_COLOUR_WORDS = {
    "red": (("red",), ("红色", "红")),
    "orange": (("orange",), ("橙色", "橘色")),
    "yellow": (("yellow",), ("黄色", "黄")),
    "green": (("green",), ("绿色", "绿")),
    "blue": (("blue",), ("蓝色", "蓝")),
    "purple": (("purple", "violet"), ("紫色", "紫")),
    "white": (("white",), ("白色", "白")),
    "black": (("black",), ("黑色", "黑")),
}
_SHAPE_WORDS = {
    "circle": (("circle", "disc", "ball"), ("圆形", "圆圈", "圆")),
    "square": (("square", "box"), ("正方形", "方块", "方形")),
    "triangle": (("triangle",), ("三角形", "三角")),
}
# Each English motion as a participle and a finite verb.
_ENGLISH_MOTIONS = {
    "left": ("moving left|moves left", "moving to the left|moves to the left", "sliding left|slides left",
             "going left|goes left", "drifting leftwards|drifts leftwards"),
    "right": ("moving right|moves right", "moving to the right|moves to the right", "sliding right|slides right",
              "going right|goes right", "drifting rightwards|drifts rightwards"),
    "up": ("moving up|moves up", "moving upwards|moves upwards", "rising|rises", "going up|goes up",
           "sliding up|slides up"),
    "down": ("moving down|moves down", "moving downwards|moves downwards", "falling|falls", "going down|goes down",
             "sliding down|slides down"),
    "growing": ("growing|grows", "getting bigger|gets bigger", "getting larger|gets larger", "expanding|expands"),
    "turning": ("turning|turns", "rotating|rotates", "spinning|spins", "turning around|turns around"),
}  # fmt: skip
_CHINESE_MOTIONS = {
    "left": ("向左移动", "往左移动", "向左滑动", "向左运动", "往左走"),
    "right": ("向右移动", "往右移动", "向右滑动", "向右运动", "往右走"),
    "up": ("向上移动", "往上移动", "向上滑动", "向上运动", "上升"),
    "down": ("向下移动", "往下移动", "向下滑动", "向下运动", "下降", "下落"),
    "growing": ("变大", "逐渐变大", "慢慢变大", "放大", "长大"),
    "turning": ("旋转", "转动", "打转", "原地旋转"),
}
_GROUNDS = (("ground", "background", "backdrop"), ("背景", "底"))

_ENGLISH = (
    "{a_c} {c} {s} {ing} on {a_g} {g} {ground}",
    "{a_c} {c} {s} {ing} over {a_g} {g} {ground}",
    "{a_c} {c} {s} {verb} on {a_g} {g} {ground}",
    "{a_c} {c} {s} {verb} against {a_g} {g} {ground}",
    "{a_c} {c} {s} {verb} in front of {a_g} {g} {ground}",
    "on {a_g} {g} {ground}, {a_c} {c} {s} {verb}",
    "on {a_g} {g} {ground} {a_c} {c} {s} is {ing}",
    "{c} {s} {ing}, {g} {ground}",
    "{c} {s}, {g} {ground}, {ing}",
    "the {s} is {c}, the {ground} is {g}, and the {s} {verb}",
    "a video of {a_c} {c} {s} {ing} on {a_g} {g} {ground}",
    "{a_g} {g} {ground} with {a_c} {c} {s} {ing}",
    "{ing}: {a_c} {c} {s}, {g} {ground}",
    "{a_g} {g} {ground}, {a_c} {c} {s}, {ing}",
    "{a_c} {c} {s} {verb}, the {ground} is {g}",
    "the {ground} is {g}, {a_c} {c} {s} {verb}",
    "the {s} {verb}, it is {c}, the {ground} is {g}",
    "{a_c} {c} {s} which is {ing}, and the {ground} is {g}",
    "{ing} {s}, {c}, on {a_g} {g} {ground}",
    "there is {a_c} {c} {s} on {a_g} {g} {ground} and it is {ing}",
)
_ENGLISH_WITHOUT_GROUND = ("{a_c} {c} {s} {ing}", "{a_c} {c} {s} {verb}", "{c} {s} {ing}")
_ENGLISH_UNSEEN = (
    "show me {a_c} {c} {s} that {verb} while the {ground} stays {g}",
    "{a_c} {c} {s} is {ing}, behind it {a_g} {g} {ground}",
)
_CHINESE = (
    "{g}{ground}上一个{c}的{s}{m}",
    "{g}的{ground}上，一个{c}{s}{m}",
    "一个{c}的{s}在{g}{ground}上{m}",
    "一个{c}{s}在{g}的{ground}上{m}",
    "{c}{s}{m}，{g}{ground}",
    "{c}的{s}，{g}的{ground}，{m}",
    "在{g}的{ground}前，{c}{s}正在{m}",
    "{ground}是{g}，一个{c}{s}{m}",
    "一段视频：{c}的{s}在{g}的{ground}上{m}",
    "{m}的{c}{s}，{ground}是{g}",
    "一个{m}的{c}{s}，{g}{ground}",
    "{g}{ground}，{m}的{c}{s}",
    "{s}是{c}的，{ground}是{g}的，{s}{m}",
    "{ground}是{g}的，{s}是{c}，{m}",
    "一个{c}{s}正在{m}，{ground}是{g}",
    "{g}{ground}，{c}{s}，{m}",
    "{ground}{g}，{c}的{s}在{m}",
)
_CHINESE_WITHOUT_GROUND = ("一个{c}的{s}{m}", "{c}{s}正在{m}", "一个{c}{s}在{m}")
_CHINESE_UNSEEN = ("请画一个正在{m}的{c}{s}，{ground}要{g}", "{g}的{ground}，有一个{s}是{c}的，它{m}")

FILLERS = ("high quality", "a smooth animation", "flat colours", "simple and clean", "please", "4k", "高清", "画质清晰",
           "动画", "请", "简单的画面", "流畅")  # fmt: skip
"""Words that ask for nothing; training adds them to prompts so that the model learns to ignore them."""
NEGATIVES = ("", "blurry, low quality, distorted", "worst quality, static, overexposed", "ugly, noise, text, watermark",
             "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量",
             "模糊，低质量，畸形，杂乱的背景")  # fmt: skip
"""Negative prompts that name no scene; the long Chinese one begins like Wan's default negative prompt."""


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for; an attribute that it leaves open is None."""

    shape: str | None
    colour: str | None
    ground: str | None
    motion: str | None


def phrase(scene: Scene, rng: random.Random, unseen: bool = False) -> str:
    """Return a random prompt for ``scene`` in one of the languages; one in ten leaves the ground open.

    Args:
        scene: what to ask for.
        rng: the only source of randomness.
        unseen: use the phrasings that training never uses; these always name the ground.
    """
    in_chinese = rng.random() < 0.5
    without_ground = not unseen and rng.random() < 0.1
    return (_chinese if in_chinese else _english)(scene, rng, without_ground, unseen)


def _english(scene: Scene, rng: random.Random, without_ground: bool, unseen: bool) -> str:
    templates = _ENGLISH_UNSEEN if unseen else _ENGLISH_WITHOUT_GROUND if without_ground else _ENGLISH
    colour, ground = (rng.choice(_COLOUR_WORDS[name][0]) for name in (scene.colour, scene.ground))
    participle, verb = rng.choice(_ENGLISH_MOTIONS[scene.motion]).split("|")
    return rng.choice(templates).format(
        a_c="an" if colour[0] == "o" else "a", a_g="an" if ground[0] == "o" else "a", c=colour, g=ground,
        s=rng.choice(_SHAPE_WORDS[scene.shape][0]), ing=participle, verb=verb, ground=rng.choice(_GROUNDS[0]),
    )  # fmt: skip


def _chinese(scene: Scene, rng: random.Random, without_ground: bool, unseen: bool) -> str:
    templates = _CHINESE_UNSEEN if unseen else _CHINESE_WITHOUT_GROUND if without_ground else _CHINESE
    return rng.choice(templates).format(
        c=rng.choice(_COLOUR_WORDS[scene.colour][1]), g=rng.choice(_COLOUR_WORDS[scene.ground][1]),
        s=rng.choice(_SHAPE_WORDS[scene.shape][1]), m=rng.choice(_CHINESE_MOTIONS[scene.motion]),
        ground=rng.choice(_GROUNDS[1]),
    )  # fmt: skip


def held_out_prompts() -> list[str]:
    """Return one prompt for each held-out scene; every fifth uses a phrasing that training never uses."""
    rng = random.Random(7)
    return [phrase(scene, rng, unseen=index % 5 == 0) for index, scene in enumerate(held_out_scenes())]


def understand(prompt: str) -> Wish:
    """Return what ``prompt`` asks for, recognised by its words."""
    text = prompt.lower()
    ground = _first(_GROUND_PATTERNS, text)
    rest = text.replace(ground[1], " ", 1) if ground else text
    colour, shape, motion = (
        _first(patterns, rest) for patterns in (_COLOUR_PATTERNS, _SHAPE_PATTERNS, _MOTION_PATTERNS)
    )
    return Wish(*(found[0] if found else None for found in (shape, colour, ground, motion)))


_Patterns = list[tuple[str, re.Pattern[str]]]


def _first(patterns: _Patterns, text: str) -> tuple[str, str] | None:
    """Return the name whose pattern matches earliest in ``text``, and the text it matched."""
    found = [(match.start(), name, match.group()) for name, p in patterns if (match := p.search(text))]
    return min(found)[1:] if found else None


def _any(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(map(re.escape, words)) + ")"


_COLOUR_PATTERNS: _Patterns = [
    (name, re.compile(rf"\b{_any(en)}\b|{_any(zh)}")) for name, (en, zh) in _COLOUR_WORDS.items()
]
_SHAPE_PATTERNS: _Patterns = [
    (name, re.compile(rf"\b{_any(en)}\b|{_any(zh)}")) for name, (en, zh) in _SHAPE_WORDS.items()
]
_MOTION_PATTERNS: _Patterns = [
    ("left", re.compile(r"\bleft(wards)?\b|[向往]左")),
    ("right", re.compile(r"\bright(wards)?\b|[向往]右")),
    ("up", re.compile(r"\bup(wards)?\b|\bris(es|ing)\b|[向往]上|上升")),
    ("down", re.compile(r"\bdown(wards)?\b|\bfall(s|ing)\b|[向往]下|下降|下落")),
    ("growing", re.compile(r"\bgrow(s|ing)\b|\bbigger\b|\blarger\b|\bexpand(s|ing)\b|变大|放大|长大")),
    ("turning", re.compile(r"\bturn(s|ing)\b|\brotat(es|ing)\b|\bspin(s|ning)\b|旋转|转动|打转")),
]
_GROUND_PATTERNS: _Patterns = [
    (
        name,
        re.compile(
            rf"\b{_any(en)} {_any(_GROUNDS[0])}\b|\b{_any(_GROUNDS[0])}(?: is| stays)? {_any(en)}\b"
            rf"|{_any(zh)}的?{_any(_GROUNDS[1])}|{_any(_GROUNDS[1])}[是要为]?{_any(zh)}"
        ),
    )
    for name, (en, zh) in _COLOUR_WORDS.items()
]
