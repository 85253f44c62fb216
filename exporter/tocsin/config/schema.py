"""The JSON Schema of `tocsin.yaml`, for editors and for the tables in docs/settings.md.

It is built from the models that read the file. Only `tocsin check` finds what JSON Schema cannot express, such as a
channel that does not exist.
"""

from collections.abc import Mapping
from typing import Any

from tocsin import registry
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, WebSettings
from tocsin.config.semantics import NAME
from tocsin.settings import Settings, duration_text

Node = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Node = {
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    "description": "A value from the environment.",
}
_DROPPED = ("title", "examples", "writeOnly", "gt", "ge", "lt", "le")
ALERT_FILES_MEANING = (
    "Further files, each a mapping of alerts as under `alerts`. Patterns such as `alerts.d/*.yaml` are relative to "
    "this file."
)


def schema() -> Node:
    """Return the schema of a whole file, with `${NAME}` allowed for numbers, choices and durations."""
    kinds = {
        **{f"{kind}_source": source(kind) for kind in registry.source_types()},
        **{f"{kind}_channel": channel(kind) for kind in registry.channel_types()},
    }
    alert = section(AlertSettings)
    alert["properties"]["notify"]["items"] = {
        "anyOf": [{"type": "string", "minLength": 1}, *(_route(kind) for kind in registry.channel_types())]
    }
    sections: dict[str, type[Settings]] = {"ledger": LedgerSettings, "web": WebSettings, "log": LogSettings}
    root: Node = {
        "$schema": DIALECT,
        "title": "Tocsin configuration",
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {"^x-": {"description": "Ignored: a place for anchors."}},
        "properties": {
            **{name: {**section(model), "type": ["object", "null"]} for name, model in sections.items()},
            "sources": _named("Where rows come from, by name.", [kind for kind in kinds if kind.endswith("_source")]),
            "channels": _named(
                "Whom to notify and how, by name.", [kind for kind in kinds if kind.endswith("_channel")]
            ),
            "alerts": _named("What to watch, by name.", ["alert"]),
            "alert_files": {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "default": [],
                "description": ALERT_FILES_MEANING,
            },
        },
        "$defs": {**kinds, "alert": alert},
    }
    return {**with_references(root), "$defs": {**with_references(root["$defs"]), "reference": REFERENCE}}


def _named(description: str, members: list[str]) -> Node:
    references = [{"$ref": f"#/$defs/{member}"} for member in members]
    return {
        "type": ["object", "null"],
        "propertyNames": {"pattern": f"^{NAME}$"},
        "description": description,
        "additionalProperties": {"oneOf": references} if len(references) > 1 else references[0],
    }


def source(kind: str) -> Node:
    """Return the schema of a source of this type."""
    return _typed(kind, section(registry.source_model(kind)))


def channel(kind: str) -> Node:
    """Return the schema of a channel of this type."""
    return _typed(kind, section(registry.channel_models(kind)[0]))


def options(kind: str) -> Node:
    """Return the schema of the options that an alert can override for a channel of this type."""
    return section(registry.channel_models(kind)[1])


def section(model: type[Settings]) -> Node:
    """Return a model's schema without references, every secret with its `*_file` alternative."""
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.pop("$defs", {})
    node: Node = _tidy(raw, definitions)
    for secret in model.secrets:
        file = f"{secret}_file"
        if file not in node["properties"]:
            continue
        if secret in node.get("required", ()):
            node["required"] = [name for name in node["required"] if name != secret]
            choice: Node = {"oneOf": [{"required": [secret]}, {"required": [file]}]}
        else:
            choice = {"not": {"required": [secret, file]}}
        node.setdefault("allOf", []).append(choice)
    return node


def is_duration(node: Mapping[str, Any]) -> bool:
    """Whether a node is the schema of a duration."""
    return node.get("format") == "duration"


def _route(kind: str) -> Node:
    node = options(kind)
    name = {"channel": {"type": "string", "minLength": 1, "description": f"The name of a channel of type {kind}."}}
    return {
        **node,
        "title": f"{kind} channel with options",
        "properties": {**name, **node["properties"]},
        "required": ["channel"],
    }


def _typed(kind: str, node: Node) -> Node:
    properties = {"type": {"const": kind}, **{k: v for k, v in node["properties"].items() if k != "type"}}
    required = ["type", *(name for name in node.get("required", ()) if name != "type")]
    return {**node, "title": kind, "properties": properties, "required": required}


def _tidy(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Resolve references, put descriptions on one line, write durations as in the file, remove pydantic's titles."""
    if isinstance(node, list):
        return [_tidy(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _tidy({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    result: Node = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _tidy(inner, definitions) for name, inner in value.items()}
        elif key == "description":
            result[key] = " ".join(value.split())
        elif key == "default":
            result[key] = value
        elif key not in _DROPPED:
            result[key] = _tidy(value, definitions)
    if "([0-9]+ms)" in str(result.get("pattern")):
        result["format"] = "duration"
        if isinstance(result.get("default"), float | int):
            result["default"] = duration_text(result["default"])
    if result.get("default", ...) is None:
        del result["default"]
    return result


def with_references(node: Any) -> Any:
    """Allow `${NAME}` for scalars other than text, and the number 0 for durations."""
    if isinstance(node, list):
        return [with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    about = {key: node[key] for key in ("description", "default") if key in node}
    rest = {key: value for key, value in node.items() if key not in about}
    if is_duration(node):
        del rest["format"]  # to JSON Schema that would be ISO 8601
        return {"anyOf": [rest, {"const": 0}, {"$ref": "#/$defs/reference"}], **about}
    if node.get("type") in ("integer", "number", "boolean") or ("enum" in node and "properties" not in node):
        return {"anyOf": [rest, {"$ref": "#/$defs/reference"}], **about}
    return {
        key: {name: with_references(inner) for name, inner in value.items()}
        if key in ("properties", "$defs", "patternProperties")
        else value
        if key in ("default", "required", "enum")
        else with_references(value)
        for key, value in node.items()
    }
