"""The commands of README's "Try it" are found as a reader would type them; `make readme` runs them."""

import pytest

from tools.readme import ROOT, ReadmeError, commands

TEXT = """# Title

## Try it

```sh
make demo        # one video
# a comment
curl -s localhost:8000/generate \\
  -d '{"prompt": "a #1"}'
```

## Next

```sh
helm install
```
"""


def test_comments_go_and_continued_lines_are_one_command() -> None:
    assert commands(TEXT) == ["make demo", """curl -s localhost:8000/generate    -d '{"prompt": "a #1"}'"""]


def test_a_readme_without_the_section_is_refused() -> None:
    with pytest.raises(ReadmeError, match="no section 'Try it'"):
        commands("# Title\n")


def test_readme_begins_with_the_demo_and_the_service() -> None:
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found[:2] == ["make demo", "make run"]
    assert sum(command.startswith("curl ") for command in found) >= 3
