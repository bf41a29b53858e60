"""Nothing secret, nobody's account, nothing left to fill in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.kuberay.findings import rule
from tests.kuberay.manifest import Manifest, strings, title

_ACCOUNT = re.compile(r"(?<![\w.])(\d{12})(?![\w])")
# AWS' own accounts (Deep Learning Containers, EKS add-ons), and those of its documentation.
_PUBLIC_ACCOUNTS = frozenset({"763104351884", "602401143452", "111122223333", "123456789012"})
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|SECRET|API_?KEY|CREDENTIAL)S?$", re.I)
_SECRETS = {
    "an AWS key": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}"),
}
_HOLE = re.compile(r"\$\{[A-Za-z_][\w.:-]*\}|<[A-Z][A-Z_ -]+>|\b(CHANGE_?ME|TODO|FIXME)\b")


def suspicious(text: str) -> Iterator[str]:
    """What in ``text`` must not be in a repository."""
    for account in _ACCOUNT.findall(text):
        if account not in _PUBLIC_ACCOUNTS:
            yield f"the account number {account}"
    for what, pattern in _SECRETS.items():
        if pattern.search(text):
            yield what


@rule
def nothing_private(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No account number, key or token anywhere."""
    for one in manifest.objects:
        for path, text in strings(one):
            yield from ((title(one), f"{path} has {what}") for what in suspicious(text))


@rule
def no_secret_objects(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Secrets are made outside: a manifest names them, never holds them."""
    for one in manifest.all("Secret"):
        if one.get("data") or one.get("stringData"):
            yield title(one), "holds data"


@rule
def no_literal_secrets(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A variable with a secret's name gets its value from a Secret."""
    for pod in manifest.workloads():
        for container in pod.containers:
            for variable in container.get("env") or []:
                if _SECRET_NAME.search(variable["name"]) and variable.get("value"):
                    yield pod.where, f"env {variable['name']} is spelt out"


@rule
def nothing_to_fill_in(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """No ``${...}``: kubectl applies it as it stands."""
    for one in manifest.objects:
        if one["kind"] in {"ConfigMap", "PrometheusRule"}:
            continue  # dashboards have variables of their own
        for path, text in strings(one):
            hole = _HOLE.search(text)
            if hole and ".command" not in path and ".args" not in path:
                yield title(one), f"{path} has {hole[0]!r}"
