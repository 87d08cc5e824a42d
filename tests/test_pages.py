"""The pages under docs/ are run: their files written, their commands executed, outputs compared.

Conventions of a page; everything happens in one temporary folder a page, from top to bottom:

    ```bash                    is run; `python` is the interpreter of the tests, gin/ is found
    ```python                  is run as a script
    ```output                  is what the block before it prints (standard error included);
                               "..." stands for anything, white space does not count
    <!-- file: PATH -->        before a block of any kind: its text is written there, not run
    <!-- exit code: N -->      before a block that ends with N instead of 0
    <!-- not run: REASON -->   before a block that is left out
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable]}

_BLOCK = re.compile(
    r"(?:^<!-- (?P<key>file|exit code|not run): (?P<value>.*?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
      place: page and line, for messages.
      language: what stands behind the opening fence.
      text: what stands between the fences.
      notes: {"file" or "exit code" or "not run": value} of the comment before it.
    """

    place: str
    language: str
    text: str
    notes: dict[str, str]


def blocks_of(page: pathlib.Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{page.name}:{text.count(chr(10), 0, found.start('language')) + 1}",
            found["language"],
            found["text"],
            {found["key"]: found["value"]} if found["key"] else {},
        )
        for found in _BLOCK.finditer(text)
    ]


def run_page(page: pathlib.Path, folder: pathlib.Path) -> int:
    """Runs a page in `folder`; returns how many blocks were run."""
    shims = folder / ".bin"
    shims.mkdir()
    # Not a link: behind one, an interpreter would not find the packages of its environment.
    (shims / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (shims / "python").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }
    number, printed = 0, ""
    for block in blocks_of(page):
        if "file" in block.notes:
            path = folder / block.notes["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "output":
            require_output(block, printed)
        elif block.language in RUN and "not run" not in block.notes:
            number += 1
            done = subprocess.run(
                [*RUN[block.language], "-c", block.text],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                check=False,
            )
            printed = done.stdout
            wanted = int(block.notes.get("exit code", 0))
            assert done.returncode == wanted, f"{block.place}: {done.returncode}\n{printed}"
    return number


def require_output(block: Block, printed: str):
    # Progress bars return to the start of their line; what is left standing is the end.
    shown = "\n".join(line.split("\r")[-1] for line in printed.replace("\r\n", "\n").split("\n"))
    pieces = (r"\s+".join(map(re.escape, piece.split())) for piece in block.text.split("..."))
    same = re.fullmatch(".*".join(pieces), shown.strip(), re.DOTALL)
    assert same, f"{block.place}: the page shows\n{block.text}\nbut there was printed\n{shown}"


PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if any(block.language in RUN for block in blocks_of(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_does_what_it_says(page, tmp_path):
    assert run_page(page, tmp_path) > 0


EXAMPLE = """
<!-- file: deep/numbers.txt -->
```text
1
2
```

```bash
cat deep/numbers.txt
python -c "import numpy, tiger_jax; print(tiger_jax.__name__)"
```

```output
1
...
tiger_jax
```
<!-- not run: it would fail -->
```bash
exit 1
```
<!-- exit code: 2 -->
```bash
echo "wrong" >&2
exit 2
```
```output
wrong
```
```python
assert open("deep/numbers.txt").read() == "1\\n2\\n"
```
```json
{"not": "run"}
```
"""


def run_example(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    return run_page(page, folder)


def test_an_example_page_is_run_by_the_conventions(tmp_path):
    assert run_example(tmp_path, EXAMPLE) == 3


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("1\n...\n", "1\n3\n", r"page\.md:13: the page shows"),
        ("<!-- exit code: 2 -->", "", r"page\.md:23: 2\n\s+wrong"),
        ("<!-- not run: it would fail -->", "", r"page\.md:19: 1"),
        ('"1\\n2\\n"', '"3"', r"page\.md:30: 1"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(tmp_path, right, wrong, message):
    assert right in EXAMPLE
    with pytest.raises(AssertionError, match=message):
        run_example(tmp_path, EXAMPLE.replace(right, wrong))
