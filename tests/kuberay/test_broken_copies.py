"""Each mistake of the catalogue is found, by the rule that is there for it."""

from __future__ import annotations

import pytest

import tests.kuberay.rules  # noqa: F401  (registers them)
from tests.kuberay import findings, rendering, schemas
from tests.kuberay.manifest import Manifest
from tests.kuberay.mutations import MUTATIONS, AbsentError, Mutation


def broken_copy(manifest: Manifest, mutation: Mutation) -> Manifest | None:
    """A copy with the mistake in it; ``None`` where there is nothing to break."""
    copied = manifest.copy()
    try:
        mutation.change(copied)
    except AbsentError:
        return None
    return copied


def check(manifest: Manifest, broken: Manifest, mutation: Mutation) -> None:
    if mutation.rule == "custom-schema" and not schemas.CRDS.is_dir():
        pytest.skip(f"NO CRDS in {schemas.CRDS}: this mistake is found by a schema only")
    before = set(findings.run(manifest, mutation.rule))
    assert set(findings.run(broken, mutation.rule)) - before, f"{mutation.rule} found nothing"


# The rest needs more than the example has: two RayServices, for instance.
IN_EXAMPLE = [m for m in MUTATIONS if broken_copy(rendering.example(), m) is not None]


@pytest.mark.parametrize("mutation", IN_EXAMPLE, ids=lambda m: m.name)
def test_in_the_example(mutation: Mutation) -> None:
    manifest = rendering.example()
    broken = broken_copy(manifest, mutation)
    assert broken is not None
    check(manifest, broken, mutation)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_in_an_overlay(mutation: Mutation, kubectl: str) -> None:
    for name in rendering.overlays():
        manifest = rendering.overlay(name)
        broken = broken_copy(manifest, mutation)
        if broken is not None:
            check(manifest, broken, mutation)
            return
    for path in rendering.additions():
        manifest = rendering.with_addition(path)
        broken = broken_copy(manifest, mutation)
        if broken is not None:
            check(manifest, broken, mutation)
            return
    pytest.fail("no overlay has what this mistake is about")


def test_every_rule_has_its_mistake() -> None:
    assert set(findings.RULES) == {mutation.rule for mutation in MUTATIONS}
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
