"""What is wrong with a manifest: every check, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.kuberay.manifest import Manifest

# Yields (where, what is wrong and what to do).
Check = Callable[[Manifest], Iterator[tuple[str, str]]]
RULES: dict[str, Check] = {}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.message}"


def rule(check: Check) -> Check:
    """Register ``check`` under its name, with dashes."""
    name = check.__name__.replace("_", "-")
    assert name not in RULES, name
    assert check.__doc__, name
    RULES[name] = check
    return check


def run(manifest: Manifest, *names: str) -> list[Finding]:
    """Findings of the named rules, or of all of them."""
    return [
        Finding(name, where, message)
        for name in names or RULES
        for where, message in RULES[name](manifest)
    ]
