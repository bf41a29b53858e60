"""Validation as the API server does it: CRDs' OpenAPI schemas, and Kubernetes' own.

Unknown fields are errors, as with ``kubectl apply --validate=strict``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate.utils
import referencing
import yaml
from jsonschema import Draft202012Validator

from tests.kuberay import cel
from tests.kuberay.manifest import Object

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT.parent / "shared" / "crds"
KUBERNETES = "1.36.0"


@functools.cache
def crd_kinds(group: str) -> dict[tuple[str, str], Object]:
    """(apiVersion, kind) -> the version's entry in its CRD, for served versions of ``group``."""
    found = {}
    for path in sorted(CRDS.glob(f"{group}_*.yaml")):
        for crd in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader):
            spec = crd["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    api = f"{spec['group']}/{version['name']}"
                    found[api, spec["names"]["kind"]] = version
    return found


@functools.cache
def crd_groups() -> frozenset[str]:
    """API groups that there are CRDs of: files are called ``<group>_<plural>.yaml``."""
    return frozenset(path.name.partition("_")[0] for path in CRDS.glob("*.yaml"))


def is_custom(one: Object) -> bool:
    """Whether ``one`` is a custom resource by its API group."""
    group = str(one.get("apiVersion", "")).rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def problems(one: Object) -> list[str]:
    """What the API server would refuse in ``one``; nothing said of kinds without a schema here."""
    return list(_problems(json.dumps(one, sort_keys=True)))


@functools.lru_cache(maxsize=4096)
def _problems(text: str) -> tuple[str, ...]:
    one = json.loads(text)
    if is_custom(one) or one["apiVersion"].split("/")[0] in crd_groups():
        return tuple(_custom_problems(one))
    return tuple(_core_problems(one))


def _custom_problems(one: Object) -> Iterator[str]:
    api, kind = one["apiVersion"], one["kind"]
    group = api.split("/")[0]
    if group not in crd_groups():
        yield f"no schema of {api} {kind} is at hand"
        return
    version = crd_kinds(group).get((api, kind))
    if version is None:
        yield f"{api} {kind} is not served"
        return
    schema = version["schema"]["openAPIV3Schema"]
    wrong = [_explain(error) for error in _crd_validator(api, kind).iter_errors(one)]
    yield from wrong
    yield from _core_problems(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": one["metadata"]}
    )
    if not wrong:  # the API server too evaluates rules on sound structures only
        whole = with_defaults(one, schema)
        yield from _repeated(whole, schema, "")
        yield from cel.violations(whole, schema, f"{kind}")


@functools.cache
def _crd_validator(api: str, kind: str) -> Draft202012Validator:
    schema = _strict(crd_kinds(api.split("/")[0])[api, kind]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {}  # told apart: see above
    return Draft202012Validator(schema)


def _strict(schema: Object) -> Object:
    """A structural schema as JSON schema, in which fields not named are errors."""
    result = {
        key: value
        for key, value in schema.items()
        if key
        in {"type", "enum", "pattern", "minimum", "maximum", "required"}
        | {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
        | {"multipleOf", "uniqueItems"}
    }
    for key in ("exclusiveMinimum", "exclusiveMaximum"):  # booleans in OpenAPI 3.0
        if schema.get(key):
            result[key] = result.pop(key.replace("exclusive", "").lower())
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            result[key] = [_loose(part) for part in schema[key]]
    if "not" in schema:
        result["not"] = _loose(schema["not"])
    properties = {name: _strict(inner) for name, inner in schema.get("properties", {}).items()}
    if schema.get("x-kubernetes-embedded-resource"):
        properties |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    if properties:
        result["properties"] = properties
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        result["additionalProperties"] = _strict(more)
    elif more is None and properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = _strict(schema["items"])
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        result["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in result:
        types = result["type"]
        result["type"] = [*(types if isinstance(types, list) else [types]), "null"]
    return result


def _loose(part: Object) -> Object:
    """Inside ``anyOf`` and the like only values are constrained; nothing is named anew there."""
    return {
        key: (
            {name: _loose(inner) for name, inner in value.items()}
            if key == "properties"
            else _loose(value)
            if key in {"items", "not"}
            else value
        )
        for key, value in part.items()
        if not key.startswith("x-")
    }


def with_defaults(value: Any, schema: Object) -> Any:
    """``value`` with the schema's defaults, as the API server stores it."""
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        result = {
            key: with_defaults(inner, known.get(key, more if isinstance(more, dict) else {}))
            for key, inner in value.items()
        }
        for key, inner in known.items():
            if key not in result and "default" in inner:
                result[key] = with_defaults(inner["default"], inner)
        return result
    if isinstance(value, list):
        return [with_defaults(inner, schema.get("items", {})) for inner in value]
    return value


def _repeated(value: Any, schema: Object, path: str) -> Iterator[str]:
    """Entries of lists that are maps or sets, which must be there once."""
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        seen: list[Any] = []
        for entry in value:
            name = [entry.get(key) for key in keys] if keys else entry
            if (keys or schema.get("x-kubernetes-list-type") == "set") and name in seen:
                yield f"{path}: {name} is there more than once"
            seen.append(name)
            yield from _repeated(entry, schema.get("items", {}), f"{path}[]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key, {})
            yield from _repeated(inner, known, f"{path}.{key}")


@functools.cache
def _core_validator(kind: str, api: str) -> Draft202012Validator | None:
    """Of kubernetes-validate's schemas, which are those of Kubernetes' own OpenAPI."""
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    short = re.sub(r"^([^./]*)(?:[.][^/]*)?/", r"\1-", api)
    name = f"{kind.lower()}-{short}.json"
    read = kubernetes_validate.utils.schema_contents
    try:
        schema = read(f"{folder}/{name}", KUBERNETES)
    except FileNotFoundError:
        return None
    registry: Any = referencing.Resource.from_contents(schema) @ referencing.Registry()
    return Draft202012Validator(schema, registry=_core_definitions() @ registry)


@functools.cache
def _core_definitions() -> Any:
    read = kubernetes_validate.utils.schema_contents
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict"
    return referencing.Resource.from_contents(read(f"{folder}/_definitions.json", KUBERNETES))


def _core_problems(one: Object) -> Iterator[str]:
    validator = _core_validator(one["kind"], one["apiVersion"])
    if validator is None:
        yield f"Kubernetes {KUBERNETES} has no {one['apiVersion']} {one['kind']}"
        return
    yield from (_explain(error) for error in validator.iter_errors(one))


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error.absolute_path) or "(top)"
    message = error.message if len(error.message) < 300 else error.message[:297] + "..."
    return f"{path}: {message}"
