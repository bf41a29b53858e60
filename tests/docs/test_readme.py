"""README is one screen, says where each claim about others was read, and links to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

README, PEERS = ROOT / "README.md", ROOT / "docs" / "peers.md"
SCREEN = 60  # lines, without the definitions of links, which nobody sees
_DEFINITION = re.compile(r"^\[([\w-]+)\]: (\S+)$", re.MULTILINE)


def comparison(page: Path) -> list[list[str]]:
    """The cells of the table beside others, row by row, without its two head lines."""
    lines = page.read_text("utf-8").splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("| | imagine-serve |")]
    rows = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_readme_is_one_screen_with_one_picture() -> None:
    text = README.read_text("utf-8")
    assert len([line for line in text.splitlines() if not _DEFINITION.match(line)]) <= SCREEN
    assert text.count("![") == 1


@pytest.mark.parametrize("page", [README, PEERS], ids=lambda page: page.name)
def test_what_others_have_is_linked_to_the_version_that_was_read(page: Path) -> None:
    targets = dict(_DEFINITION.findall(page.read_text("utf-8")))
    used = set()
    for row in comparison(page):
        for cell in row[2:]:
            links = re.findall(r"\]\[([\w-]+)\]", cell)
            assert links or cell == "–", (row[0], cell)
            used.update(links)
    assert used == set(targets)
    for name, target in targets.items():
        pinned = re.search(r"/blob/[0-9a-f]{40}/|/(?:pull|issues)/\d+$", target)
        assert pinned, f"{name}: not a file at a commit, nor a thread"


def test_the_readmes_rows_are_those_of_the_whole_table() -> None:
    """Neither may claim of us what the other does not."""
    whole = {row[0]: row[1].partition(" (")[0] for row in comparison(PEERS)}
    short = {row[0]: row[1] for row in comparison(README)}
    assert short == {name: whole.get(name) for name in short}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
