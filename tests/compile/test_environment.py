"""What must be the same where an artifact runs, what may be newer, what is only recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile.environment import host, instruction_sets, mismatches, packages
from compile.exporters.base import Fact, Rule
from compile.exporters.cuda import driver_version


@pytest.mark.parametrize(
    ("rule", "made", "here", "line"),
    [
        ("equal", "2.13.0", "2.13.0", None),
        ("equal", "2.13.0", "2.13.1", "torch: made with 2.13.0, here 2.13.1"),
        ("at_least", "550.54.15", "550.54.15", None),
        ("at_least", "550.54.15", "570.2", None),
        ("at_least", "2.9", "2.36", None),  # numbers, not text
        ("at_least", "550.54", "535.1", "torch: made with 550.54 or later, here 535.1"),
        ("superset", "avx avx2", "avx2 avx sse", None),
        (
            "superset",
            "avx avx512f",
            "avx",
            "torch: made for a processor with avx512f, which this one lacks",
        ),
        ("recorded", "a", "b", None),
    ],
)
def test_each_rule(rule: Rule, made: str, here: str, line: str | None) -> None:
    lines = mismatches({"torch": Fact(made, rule)}, {"torch": Fact(here, rule)})
    assert lines == ([] if line is None else [line])


@pytest.mark.parametrize("rule", ["equal", "at_least", "superset"])
def test_a_fact_that_is_absent_here_does_not_fit(rule: Rule) -> None:
    (line,) = mismatches({"gpu": Fact("550", rule)}, {})
    assert line.startswith("gpu: made ")


def test_instruction_sets_leave_out_what_no_compiler_uses() -> None:
    intel = (
        "processor : 0\nflags\t\t: fpu vme sse4_2 avx512f hypervisor avx2 ibrs\nbugs : spectre\n"
    )
    assert instruction_sets(intel) == "avx2 avx512f sse4_2"
    assert instruction_sets("Features : fp asimd aes sve") == "aes asimd sve"
    assert instruction_sets("") == ""


def test_this_machine_fits_itself() -> None:
    here = host()
    assert set(here) == {"machine", "libc", "cpu_isa"}
    assert mismatches(here, here) == []


def test_packages_are_recorded(tmp_path: Path) -> None:
    found = packages("pydantic", "no-such-package")
    assert found["no-such-package"] == Fact("(absent)", "recorded")
    assert found["pydantic"].value.startswith("2.")


@pytest.mark.parametrize(
    "text",
    [
        "550.54.15\n",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n",
    ],
)
def test_the_driver_is_read_where_the_kernel_tells_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text, encoding="utf-8")
    assert driver_version((tmp_path / "absent", tmp_path / "version")) == "550.54.15"
    assert driver_version((tmp_path / "absent",)) == "(unknown)"
