"""JSON Schemas for kubeconform, made of Kubernetes' OpenAPI document and of custom resource definitions."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

_REFERENCE = "#/definitions/"
_OF_META = "io.k8s.apimachinery.pkg."
_LOOSE: dict[str, Schema] = {
    f"{_OF_META}util.intstr.IntOrString": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    f"{_OF_META}api.resource.Quantity": {
        "oneOf": [
            {"type": "string", "pattern": r"^[+-]?(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$"},
            {"type": "number"},
        ]
    },
}
"""Types that the document describes as a plain string."""


def write_schemas(openapi: Path, definitions: Iterable[Path], folder: Path) -> None:
    """Write one file for each kind, strict: a field that does not exist is an error."""
    types: dict[str, Schema] = json.loads(openapi.read_text(encoding="utf-8"))["definitions"]
    strict = {name: _LOOSE.get(name) or _strict(schema) for name, schema in types.items()}
    for name, schema in types.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            needed = {each: strict[each] for each in _reachable(name, strict)}
            group = kind["group"].split(".")[0]
            file = "-".join(part.lower() for part in (kind["kind"], group, kind["version"]) if part)
            whole = {**strict[name], "definitions": needed}
            _restrict(whole, kind["kind"], "/".join(part for part in (kind["group"], kind["version"]) if part))
            (folder / f"{file}.json").write_text(json.dumps(whole), encoding="utf-8")
    for definition in definitions:
        _write_custom(json.loads(definition.read_text(encoding="utf-8"))["spec"], strict, folder)


def _write_custom(spec: Schema, types: dict[str, Schema], folder: Path) -> None:
    meta = f"{_OF_META}apis.meta.v1.ObjectMeta"
    for version in spec["versions"]:
        whole = _strict(version["schema"]["openAPIV3Schema"])
        whole["properties"]["metadata"] = {"$ref": f"{_REFERENCE}{meta}"}
        whole["definitions"] = {each: types[each] for each in _reachable(meta, types)}
        _restrict(whole, spec["names"]["kind"], f"{spec['group']}/{version['name']}")
        file = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
        (folder / file).write_text(json.dumps(whole), encoding="utf-8")


def _restrict(schema: Schema, kind: str, version: str) -> None:
    own = {"kind": {"enum": [kind]}, "apiVersion": {"enum": [version]}}
    schema["properties"] = {**schema.get("properties", {}), **own}


def _strict(schema: Schema) -> Schema:
    """Copy a schema so that each object has only the properties that are named."""
    copied: Schema = {}
    for key, value in schema.items():
        if key == "properties":  # names of fields, which may be those of JSON Schema itself
            copied[key] = {name: _strict(each) for name, each in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            copied[key] = _strict(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            copied[key] = value  # of rules on values, not of further fields
        elif key not in ("description", "default", "format") and not key.startswith("x-"):
            copied[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        copied.pop("type", None)
        copied.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    keeps = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in copied and "additionalProperties" not in copied and not keeps:
        copied["additionalProperties"] = False
    return copied


def _reachable(name: str, types: dict[str, Schema]) -> set[str]:
    found: set[str] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(_references(types[current]))
    return found


def _references(value: Any) -> Iterable[str]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref" and isinstance(each, str):
                yield each.removeprefix(_REFERENCE)
            else:
                yield from _references(each)
