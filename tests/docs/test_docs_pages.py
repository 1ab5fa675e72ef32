"""Pages say what is so: links lead somewhere, Python runs, commands and their options exist, tables are those of results/."""

import re
import runpy
import shlex
from functools import cache
from pathlib import Path

import pytest

from unnoise.cli import COMMANDS, main
from unnoise.papers import slugs

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + DOCS


def code_lines(text: str) -> list[str]:
    """Lines of code: fenced, or indented by four; and what stands between single backticks."""
    fenced = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```[^\n]*\n.*?```", "", text, flags=re.DOTALL)
    indented = [line for line in rest.splitlines() if line.startswith("    ")]
    inline = re.findall(r"`([^`\n]+)`", rest)
    return [line.strip() for block in fenced for line in block.splitlines()] + [s.strip() for s in indented] + inline


def commands() -> list[tuple[str, str]]:
    found = set()
    for page in PAGES:
        for line in code_lines(page.read_text("utf-8")):
            if match := re.match(r"(?:accelerate launch .* -m )?unnoise ([a-z].*)", line):
                found.add((page.name, re.split(r"\s+(?:#|\.\.\.)", match[1])[0].strip()))
    return sorted(found)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!http)[^)\s]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_of_the_docs_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in DOCS if f"](docs/{page.name})" not in readme] == []


BLOCKS = [
    (page, i, block)
    for page in DOCS
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize(("page", "i", "block"), BLOCKS, ids=[f"{page.stem}-{i}" for page, i, _ in BLOCKS])
def test_python_runs(page, i, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"{page.name}, block {i}", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_of_longer_examples_work(page):
    """Of those that need a run: in the README, and in blocks marked `python of a run`."""
    kind = " of a run" if page in DOCS else ""
    for block in re.findall(rf"```python{kind}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        compile(block, page.name, "exec")
        exec("\n".join(line for line in block.splitlines() if line.startswith(("import ", "from "))), {})


@cache
def helped(*words: str) -> str:
    """What a command's --help says."""
    import contextlib
    import io
    from unittest import mock

    said = io.StringIO()
    with contextlib.redirect_stdout(said), mock.patch.dict("os.environ", COLUMNS="200"):
        main([*words, "--help"])
    return said.getvalue()


@pytest.mark.parametrize(("page", "line"), commands(), ids=[f"{page}: {line}" for page, line in commands()])
def test_commands_and_their_options_exist(page, line):
    name, *words = shlex.split(line)
    assert name in COMMANDS, line
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    paper = [words[0]] if name == "train" and words and words[0] in slugs() else ["edm"] if name == "train" else []
    said = helped(name, *paper)
    for flag in flags:
        assert flag in ("--help", "--resume", "--preset", "--json") or re.search(rf"{flag}\b", said), f"{line}: {flag}"


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for line in code_lines(page.read_text("utf-8")):
            if match := re.match(r"make ([a-z-]+)", line):
                assert match[1] in targets, f"{page.name}: {line}"


def test_tables_are_those_of_the_results():
    script = runpy.run_path(str(ROOT / "scripts" / "update_readme.py"))
    for page in script["PAGES"]:
        text = page.read_text("utf-8")
        assert script["updated"](text) == text, f"{page.name}: run scripts/update_readme.py"


def test_checks_find_what_is_wrong(tmp_path):
    """The tests above can fail: on a page with a dead link and an unknown command."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n[there](#a-page) [gone](gone.md)\n\n    unnoise sampel RUN   # no\n\n`unnoise tune RUN --nef 8`\n"
    )
    with pytest.raises(AssertionError, match=r"gone\.md"):
        test_links_lead_somewhere(page)
    assert anchors(page) == {"a-page"}
    assert {line for line in code_lines(page.read_text()) if line.startswith("unnoise")} == {
        "unnoise sampel RUN   # no",
        "unnoise tune RUN --nef 8",
    }
    with pytest.raises(AssertionError):
        test_commands_and_their_options_exist("page", "sampel RUN")
    with pytest.raises(AssertionError, match="--nef"):
        test_commands_and_their_options_exist("page", "tune RUN --nef 8")
