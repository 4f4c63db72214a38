"""The generated reference is what the code gives, and its Markdown means what docstrings say."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def prose(root: Path) -> ModuleType:
    """The module that turns docstrings into Markdown."""
    spec = importlib.util.spec_from_file_location("prose", root / "tools" / "prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(root: Path, *folder: Path) -> tuple[int, str]:
    command = [sys.executable, str(root / "tools" / "reference.py"), "--check", *map(str, folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_the_generated_pages_are_what_the_code_gives(root: Path) -> None:
    assert check(root) == (0, "")


def test_a_page_that_was_edited_left_out_or_made_up_is_named(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "docs" / "reference" / "generated", tmp_path / "pages")
    edited = folder / "benchmarks.md"
    edited.write_text(edited.read_text(encoding="utf-8").replace("1,319", "1,320", 1), "utf-8")
    (folder / "judges.md").unlink()
    (folder / "more.md").write_text("# More\n", encoding="utf-8")
    code, said = check(root, folder)
    assert code == 1
    assert re.findall(r"^(\S+) is not", said, flags=re.MULTILINE) == [
        "benchmarks.md",
        "judges.md",
        "more.md",
    ]
    assert "python tools/reference.py" in said


def test_sections_of_a_docstring_become_lists_and_labels_become_bold(prose: ModuleType) -> None:
    written = prose.docstring(
        """Do it.

        Why it is done,
        in ``two`` lines.

        Args:
            first, second: What they are,
                on two lines.

        Returns:
            float32 [rows].

        Source: a paper,
            section 2.
        Differs: none known.
        """
    )
    assert written == (
        "Do it.\n\nWhy it is done,\nin `two` lines.\n\n"
        "**Args**\n\n- `first, second`: What they are, on two lines.\n\n"
        "**Returns**\n\nfloat32 [rows].\n\n"
        "**Source.** a paper,\nsection 2.\n\n**Differs.** none known."
    )


def test_text_of_a_docstring_is_no_markup(prose: ModuleType) -> None:
    assert prose.inline("a <b> * __x__ `<c> * __y__`") == r"a &lt;b> \* \_\_x\_\_ `<c> * __y__`"
    assert prose.cell("a|b") == r"a\|b"
    assert prose.code("a|b") == r"`a\|b`"
