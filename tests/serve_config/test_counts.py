"""Counts are set in anybody's text, and nothing else in it changes."""

import difflib

import pytest
import yaml

from serve_config import Counts, ServeConfigError, ServeValues, read_counts, render, with_counts

COMMENTED = """\
# Ours
applications:
  - name: wan22  # the app
    import_path: app.serve_app:app
    deployments:
      # the gangs
      - name: VideoGenerator
        num_replicas: 1  # one
        user_config: {total_workers: 2}
      - name: APIEntrypoint
        num_replicas: 2
    args: {attention_heads: 24}
"""


def changed(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[2:].strip() for line in lines if line.startswith("+ ")]


@pytest.mark.parametrize("text", [render(ServeValues()), COMMENTED], ids=["json", "yaml"])
def test_equal_counts_give_the_same_string(text: str) -> None:
    assert with_counts(text, total_workers=2, gangs=1, pods=2) == text


def test_only_the_counts_change_in_json() -> None:
    text = render(ServeValues())
    assert changed(text, with_counts(text, total_workers=8, gangs=3, pods=24)) == [
        '"num_replicas": 24',
        '"num_replicas": 3,',
        '"total_workers": 8',
    ]


def test_comments_and_layout_stay_in_yaml() -> None:
    after = with_counts(COMMENTED, total_workers=4, gangs=2, pods=8)
    assert changed(COMMENTED, after) == [
        "num_replicas: 2  # one",
        "user_config: {total_workers: 4}",
        "num_replicas: 8",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "applications: [{name: wan22}]",
        '{"applications": [{"name": "wan22", "deployments": []}]}',
        "applications:\n- name: wan22\n  deployments:\n  import_path: app.serve_app:app\n",
        "applications:\n- name: wan22\n  deployments: null\n",
        "applications:\n- name: wan22\n  deployments:\n  - name: VideoGenerator\n    user_config:\n",
        "applications:\n- name: wan22\n  deployments: [{name: VideoGenerator, user_config: {}, num_replicas: auto}]\n",
        "applications:\n- name: wan22\n  deployments:\n    - name: APIEntrypoint\n",
        "applications:\n- import_path: app.serve_app:app\n  name: mine\n",
        "applications:\n- name: other\n  import_path: a:b\n- name: wan22\n  import_path: app.serve_app:app\n",
        "applications:\n- name: wan22\n  deployments:\n  - name: VideoGenerator\n    user_config: {total_workers: x}\n",
    ],
)
def test_missing_places_are_made_and_a_second_time_changes_nothing(text: str) -> None:
    once = with_counts(text, total_workers=4, gangs=2, pods=8)
    found = read_counts(once)
    assert (found.total_workers, found.gangs, found.pods) == (4, 2, 8)
    assert with_counts(once, total_workers=4, gangs=2, pods=8) == once
    before, after = yaml.safe_load(text), yaml.safe_load(once)
    assert [one["name"] for one in before["applications"]] == [one["name"] for one in after["applications"]]


def test_absent_counts_are_none() -> None:
    assert read_counts("applications: [{name: wan22}]") == Counts(None, None, None, None)
    assert read_counts(COMMENTED) == Counts(2, 1, 2, 24)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("applications: [{name: other, import_path: a:b}]", ["applications", "found 0", "wan22"]),
        ("[", ["line 2, column 1", "not readable"]),
        ("", ["empty"]),
        ("applications: []\n---\nb: 1", ["line 3, column 1", "second document"]),
        (
            "x: &n 2\napplications: [{name: wan22, deployments: [{name: VideoGenerator, num_replicas: *n}]}]",
            ["line 2, column 81", "alias *n", "write its value out"],
        ),
    ],
)
def test_a_text_that_cannot_be_edited_says_where_and_why(text: str, words: list[str]) -> None:
    with pytest.raises(ServeConfigError) as error:
        with_counts(text + "\n" if text else text, total_workers=4, gangs=2, pods=8)
    for word in words:
        assert word in str(error.value)
