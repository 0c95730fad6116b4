"""Texts that are short and mean, or long: each is refused in well under a second, by a message that names the place."""

import time

import pytest
import yaml

from serve_config import ServeConfigError, check_serve_config, read_counts, with_counts
from serve_config.document import DEEPEST, MOST_CHARACTERS, compose, walk

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
)
"""850 bytes that stand for 9^20 values."""
HOSTILE = [
    pytest.param(BOMB + "applications: *a19\n", "line 2, column 10: found the alias *a0", id="aliases of aliases"),
    pytest.param("applications: &a [*a]\n", "line 1, column 19: found the alias *a", id="a list in itself"),
    pytest.param("a: &a {x: 1}\nb:\n  <<: *a\n", "line 3, column 7: found the alias *a", id="a merged alias"),
    pytest.param("? &k [1]\n: 1\n? *k\n: 2\n", "found the alias *k", id="an alias as a key"),
    pytest.param("[" * 100_000, "at most 65536", id="long and deep"),
    pytest.param("[" * 5000, f"more than {DEEPEST} levels", id="deep lists"),
    pytest.param("{a: " * 5000, f"more than {DEEPEST} levels", id="deep mappings"),
    pytest.param("- " * 5000, f"more than {DEEPEST} levels", id="deep block lists"),
    pytest.param("a: " + "x" * MOST_CHARACTERS, "at most 65536", id="long"),
    pytest.param("\n".join(f"a{n}:" for n in range(9000)), "more than 4000 keys and values", id="many keys"),
    pytest.param("applications: 0x" + "f" * 60_000, "a number of 60002 characters", id="a long number"),
    pytest.param("applications: 1" + ":1" * 30_000, "a number of 60001 characters", id="a long number of base 60"),
    pytest.param("applications: 2026-99-99", "write a plain value", id="no date"),
    pytest.param("applications: !!bool maybe", "write a plain value", id="no boolean"),
    pytest.param("applications: !!timestamp x", "write a plain value", id="no time"),
]


@pytest.mark.timeout(20)  # Without its bounds the reader would take minutes.
@pytest.mark.parametrize(("text", "words"), HOSTILE)
def test_it_is_refused_by_name_at_once(text: str, words: str) -> None:
    began = time.process_time()
    problems = check_serve_config(text)
    assert words in str(problems[0])
    assert time.process_time() - began < 0.9


@pytest.mark.parametrize("text", [BOMB + "applications: *a19\n", "applications: &a [*a]\n"])
def test_no_count_is_read_from_aliases_or_set_among_them(text: str) -> None:
    with pytest.raises(ServeConfigError, match="found the alias"):
        read_counts(text)
    with pytest.raises(ServeConfigError, match="found the alias"):
        with_counts(text, total_workers=2, gangs=1, pods=2)


def test_an_anchor_without_an_alias_is_allowed() -> None:
    assert read_counts("applications: &a [{name: wan22}]").total_workers is None


def test_walking_a_tree_with_aliases_ends() -> None:
    root = yaml.compose(BOMB, Loader=yaml.SafeLoader)
    assert root is not None
    assert len(list(walk(root))) < 400


def test_walking_keeps_the_order_of_the_text() -> None:
    assert [path for path, _ in walk(compose("a: [b, {c: d}]"))] == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "c")]
