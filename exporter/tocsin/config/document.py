"""A YAML file as plain data in which every value still knows its line: duplicate keys, `${NAME}`, merge keys and
anchors.

Scalars are read by the core schema of YAML 1.2: only `true`, `false`, `null` and numbers are special, so that a country
`NO`, a channel called `on` and a time `1:30` stay text. The scanner is the one written in Python: the one in C overruns
the stack on a few hundred kilobytes of `[`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from tocsin.errors import Problem

Path: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = str | int | float | bool | list["Value"] | dict[str, "Value"] | None

_CORE_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, float] = {
    ".nan": float("nan"), ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"),
}  # fmt: skip
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_MAX_NODES = 100_000  # aliases of aliases grow exponentially


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """How a scalar was written: `source` as in the file, `text` after expansion."""

    source: str
    text: str

    @property
    def expanded(self) -> bool:
        return self.source != self.text


@dataclass(slots=True)
class Document:
    """What files say: `data`, the place of every path in it as `(file, line)`, and how scalars were written."""

    data: Value = None
    places: dict[Path, tuple[str, int]] = field(default_factory=dict)
    scalars: dict[Path, Scalar] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    file: str = ""

    def problem(self, message: str, path: Path = ()) -> Problem:
        """A problem at `path`, or at the nearest thing around it that has a line.

        What came from the environment may be a secret at the wrong place: the message shows the reference, not the
        value.
        """
        file, line = self.place(path)
        scalar = self.scalars.get(path)
        if scalar is not None and scalar.expanded and scalar.text:
            for shown in (repr(scalar.text), scalar.text):
                message = message.replace(shown, scalar.source)
        return Problem(message=message, path=dotted(path), file=file, line=line)

    def place(self, path: Path) -> tuple[str, int | None]:
        """File and line of `path`, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            found = self.places.get(path[:length])
            if found:
                return found
        return self.file, None


def dotted(path: Iterable[str | int]) -> str:
    """`("alerts", "late", "key", 0)` as `alerts.late.key[0]`; odd keys in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _WORD.fullmatch(part) else repr(part))
    return text


def resolve(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false") and text in (text.lower(), text.upper(), text.capitalize()):
        return text.lower() == "true"
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    try:
        if _INTEGER.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _NUMBER.fullmatch(text):
            return float(text)
    except ValueError:  # more digits than Python converts
        pass
    return text


def parse(text: str, file: str, environ: Mapping[str, str], at: Path = ()) -> Document:
    """The document in `text`, whose root stands at the path `at`. Problems are collected in it; it never raises.

    Every `${NAME}` and `${NAME:-default}` in a scalar is replaced from `environ` (the default also for an empty
    variable), `$${` stands for `${`. An unquoted scalar is given its type after that, so that `port: ${PORT}` is a
    number."""
    document = Document(file=file)
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        parts = [part for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        lines = text.splitlines()
        hint = "; within { } and [ ] put ${NAME} in quotes" if mark and "${" in "".join(lines[mark.line : line]) else ""
        document.problems.append(Problem(message=f"not YAML: {', '.join(parts)}{hint}", file=file, line=line))
        return document
    except yaml.reader.ReaderError as error:
        # Its position is exact, its text speaks of encodings.
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: the character U+{int(error.character):04X} is not allowed"
        document.problems.append(Problem(message=message, file=file, line=line))
        return document
    except RecursionError:
        document.problems.append(Problem(message="nested too deeply", file=file))
        return document
    except (yaml.YAMLError, ValueError, OverflowError):  # escapes such as "\Uffffffff" overflow
        document.problems.append(Problem(message="not YAML", file=file))
        return document
    if root is not None:
        _Reader(document, environ).read(root, at)
    return document


class _Reader:
    """Turns nodes into values, and notes places and problems in the document."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._open: set[int] = set()
        self._nodes = 0

    def read(self, root: yaml.Node, at: Path) -> None:
        try:
            self._document.data = self._value(root, at)
        except _TooLargeError:
            self._report(f"more than {_MAX_NODES} values", root, at)
        except RecursionError:
            self._report("nested too deeply", root, at)

    def _report(self, message: str, node: yaml.Node, path: Path, offset: int = 0) -> None:
        line = node.start_mark.line + 1 + offset
        self._document.problems.append(Problem(message=message, path=dotted(path), file=self._document.file, line=line))

    def _value(self, node: yaml.Node, path: Path) -> Value:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooLargeError
        if path and path not in self._document.places:
            self._document.places[path] = (self._document.file, node.start_mark.line + 1)
        if id(node) in self._open:
            self._report("an alias that contains itself", node, path)
            return None
        tag = _CORE_TAGS.get(node.tag)
        if tag is None:
            self._report(f"the tag {node.tag!r} is not supported", node, path)
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Value]:
        result: dict[str, Value] = {}
        first_line: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._report("a key must be plain text", key_node, path)
                continue
            key = key_node.value
            line = key_node.start_mark.line + 1
            if key == "<<" and key_node.style is None:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if key in first_line:
                self._report(f"given twice; first in line {first_line[key]}", key_node, (*path, key))
                continue
            first_line[key] = line
            self._document.places[(*path, key)] = (self._document.file, line)
            result[key] = self._value(value_node, (*path, key))
        for other in merged:
            if not isinstance(other, yaml.MappingNode):
                self._report("<< takes a mapping, or a list of mappings", other, path)
                continue
            if id(other) in self._open:
                self._report("an alias that contains itself", other, path)
                continue
            self._merge(other, result, path)
        return result

    def _merge(self, other: yaml.MappingNode, result: dict[str, Value], path: Path) -> None:
        # What stands in the mapping itself, or was merged earlier, wins: only the missing keys are read.
        missing = [(k, v) for k, v in other.value if not isinstance(k, yaml.ScalarNode) or k.value not in result]
        self._open.add(id(other))
        part = self._mapping(yaml.MappingNode(other.tag, missing, other.start_mark, other.end_mark), path)
        self._open.discard(id(other))
        for key, value in part.items():
            result.setdefault(key, value)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Value:
        text = self._expanded(node, path)
        value = resolve(text) if node.style is None else text
        if text != node.value or not isinstance(value, str):
            self._document.scalars[path] = Scalar(source=node.value, text=text)
        return value

    def _expanded(self, node: yaml.ScalarNode, path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            # Only a literal block keeps its line breaks, so only there the line within it is known.
            offset = node.value.count("\n", 0, match.start()) + 1 if node.style == "|" else 0
            reference = _VARIABLE.fullmatch(match[1]) if match[2] else None
            if reference is None:
                message = "${ begins a variable, as in ${NAME} or ${NAME:-default}; write $${ for a plain ${"
                self._report(message, node, path, offset)
                return ""
            found = self._environ.get(reference[1])
            if reference[2] is not None:
                return found or str(reference[2])
            if found is None:
                self._report(f"the environment variable {reference[1]} is not set", node, path, offset)
            return found or ""

        return _REFERENCE.sub(replace, node.value)


class _TooLargeError(Exception):
    pass
