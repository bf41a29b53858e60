"""What became of every request of the chaos suite, scenario by scenario."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One scenario's requests.

    Attributes:
        scenario: what went wrong.
        requests: that clients sent, those sent again not counted again.
        answered: with a picture, all of them compared with the known one.
        refused: answered with the clean error that the scenario admits, and no picture.
        left: clients that left on purpose.
        retried: requests that the service sent to a pool a second time.
        resent: requests that clients sent again, with the same key, after a broken connection.
        lost: without any answer.
        duplicated: sent to a pool once more without a reason; 0 where that is not counted.
        wrong: answered with another picture than the known one.
        seconds: how long it took.
    """

    scenario: str
    requests: int
    answered: int
    refused: int = 0
    left: int = 0
    retried: int = 0
    resent: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    seconds: float = 0.0


@dataclass
class Ledger:
    """All scenarios so far.

    Attributes:
        entries: what was run.
        skipped: what could not be run here, a test or a scenario of one, and why.
    """

    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Keep one."""
        self.entries.append(entry)

    @property
    def total(self) -> Entry:
        """All together."""
        names = [f.name for f in fields(Entry) if f.name != "scenario"]
        return Entry("all", **{n: sum(getattr(e, n) for e in self.entries) for n in names})

    def rows(self) -> Iterator[str]:
        """As a Markdown table."""
        names = [f.name for f in fields(Entry)]
        yield "| " + " | ".join(names) + " |"
        yield "|---" + "|---:" * (len(names) - 1) + "|"
        for entry in [*self.entries, self.total]:
            values = asdict(entry) | {"seconds": f"{entry.seconds:.1f}"}
            yield "| " + " | ".join(str(value) for value in values.values()) + " |"
        if self.skipped:
            yield ""
        for what, why in self.skipped.items():
            yield f"**NOT RUN**: {what}: {why}"

    def write(self, folder: Path) -> None:
        """``chaos.json`` and ``chaos.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            "scenarios": [asdict(e) for e in self.entries],
            "total": asdict(self.total),
            "skipped": self.skipped,
        }
        (folder / "chaos.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "chaos.md").write_text("\n".join(self.rows()) + "\n", encoding="utf-8")


def scenarios(folder: Path) -> dict[str, set[str]]:
    """Test -> the scenarios that it enters, for each test of ``folder`` that enters any.

    Read from the source, so that one that was never reached is missed.
    """
    found = {}
    for path in sorted(folder.glob("test_*.py")):
        for function in ast.parse(path.read_text("utf-8")).body:
            names = {
                str(call.args[0].value)
                for call in ast.walk(function)
                if isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "check"
                and isinstance(call.args[0], ast.Constant)
            }
            if names and isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found[function.name] = names
    return found
