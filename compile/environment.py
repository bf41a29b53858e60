"""Comparing where an artifact was made with where it is to run, and facts that many share."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compile.exporters.base import Fact

_ABSENT = "(absent)"
# Instruction sets that compilers use without being asked when told to build for this machine.
_ISA = re.compile(
    r"(avx|sse|ssse|amx|bmi|fma|f16c|adx|abm|popcnt|movbe|aes|vaes|sha|gfni|pclmul|vpclmul|asimd|sve)"
)


def mismatches(made_with: Mapping[str, Fact], here: Mapping[str, Fact]) -> list[str]:
    """One line per fact that does not fit, each naming it: ``torch: made with 2.12, here 2.13``.

    Args:
        made_with: what the artifact says; its rules count.
        here: of the machine that is to run it.
    """
    lines = []
    for name, fact in sorted(made_with.items()):
        found = here[name].value if name in here else _ABSENT
        if not _fits(fact, found):
            lines.append(f"{name}: {_wanted(fact, found)}")
    return lines


def packages(*names: str) -> dict[str, Fact]:
    """Versions of installed packages; only recorded, as they leave no trace in a finished graph."""
    return {name: Fact(_version(name), "recorded") for name in names}


def host(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Fact]:
    """What native code for this machine's processor depends on.

    Args:
        cpuinfo: where Linux lists the processor's features.
    """
    return {
        "machine": Fact(platform.machine()),
        "libc": Fact(platform.libc_ver()[1] or _ABSENT, "at_least"),
        "cpu_isa": Fact(instruction_sets(cpuinfo.read_text(encoding="utf-8")), "superset"),
    }


def instruction_sets(cpuinfo: str) -> str:
    """The words of the first ``flags`` (or ARM's ``Features``) line that name instruction sets."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    words = line.group(1).split() if line else []
    return " ".join(sorted({word for word in words if _ISA.match(word)}))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _ABSENT


def _fits(fact: Fact, found: str) -> bool:
    if fact.rule == "recorded":
        return True
    if fact.rule == "superset":
        return set(fact.value.split()) <= set(found.split())
    if fact.rule == "at_least":
        return found != _ABSENT and _numbers(found) >= _numbers(fact.value)
    return fact.value == found


def _wanted(fact: Fact, found: str) -> str:
    if fact.rule == "superset":
        lacking = " ".join(sorted(set(fact.value.split()) - set(found.split())))
        return f"made for a processor with {lacking}, which this one lacks"
    later = " or later" if fact.rule == "at_least" else ""
    return f"made with {fact.value}{later}, here {found}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
