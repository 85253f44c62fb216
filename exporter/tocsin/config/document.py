"""A YAML file as plain data that knows its lines: duplicate keys, `${NAME}`, merge keys and anchors.

Scalars are read by the core schema of YAML 1.2: only `true`, `false`, `null` and numbers are special, so that a country
`NO`, a channel called `on` and a time `1:30` stay text. ruamel.yaml is no substitute: it types `1_000`, `0b1` and
dates, and ends at the first duplicate key. The scanner is the one written in Python: the one in C overruns the stack on
a few hundred kilobytes of `[`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import yaml

from tocsin.config.problems import Path, Places, dotted, problem
from tocsin.errors import Problem

Value: TypeAlias = str | int | float | bool | list["Value"] | dict[str, "Value"] | None

_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{text: float(text.replace(".", "")) for text in (".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF")},
    **{text: float(text.replace(".", "")) for text in ("+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF")},
}
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_NO_SPACE = re.compile(r"\s*(- +)?[\w-]+:(?!//)\S")
"""A line that begins with a key without a space after its colon."""
_NAMED = re.compile(
    r"""(undefined alias|undefined tag handle|duplicate anchor) (?:'.*'|".*")(?:; first occurrence, .*)?""", re.DOTALL
)
"""Messages of PyYAML with a text of the file, which may be a password without quotes."""
_MAX_NODES = 100_000  # aliases of aliases grow exponentially


@dataclass(slots=True)
class Document:
    """The data of files, where it is in them, and what is wrong with them."""

    data: Value = None
    places: Places = field(default_factory=Places)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def report(self, code: str, path: Path = (), **fields: Any) -> None:
        self.problems.append(self.places.problem(code, path, **fields))

    def warn(self, code: str, path: Path = (), **fields: Any) -> None:
        self.warnings.append(self.places.problem(code, path, **fields))

    def add(
        self, text: str, file: str, environ: Mapping[str, str], at: Path = (), known: Mapping[str, str] | None = None
    ) -> Value:
        """Parse a text whose root is at the path `at`, and return its data. Problems are collected; it never raises.

        `known`: the keys that the root must not have, since they are set elsewhere, each with its place.
        Every `${NAME}` and `${NAME:-default}` in a scalar is replaced from `environ` (the default also for an empty
        variable), and `$${` becomes `${`. The type of an unquoted scalar is decided after that, so that `port: ${PORT}`
        is a number.
        """
        reader = _Reader(self, file, environ, known or {})
        try:
            root = yaml.compose(text, Loader=yaml.BaseLoader)
            return None if root is None else reader.value(root, at)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = ", ".join(part for part in (error.context, error.problem) if part)
            why = _NAMED.sub(r"\1; put text that begins with *, & or ! in quotes", why)
            why += _hint(error, mark, text) if mark else ""
            reader.report("not_yaml", (), mark.line + 1 if mark else None, why=why)
        except yaml.reader.ReaderError as error:
            # Its position is exact, its text is about encodings.
            why = f"the character U+{int(error.character):04X} is not allowed"
            reader.report("not_yaml", (), text.count("\n", 0, error.position) + 1, why=why)
        except _TooManyError:
            reader.report("too_many_values", at, None, limit=_MAX_NODES)
        except RecursionError:
            reader.report("too_deep", at, None)
        except (yaml.YAMLError, ValueError, OverflowError):  # escapes such as "\Uffffffff" overflow
            reader.report("not_yaml", (), None, why="it has an escape that is not a character")
        return None


def parse(text: str, file: str, environ: Mapping[str, str]) -> Document:
    """Parse a text. See `Document.add`."""
    document = Document(places=Places(file=file))
    document.data = document.add(text, file, environ)
    return document


def _hint(error: yaml.MarkedYAMLError, mark: yaml.Mark, text: str) -> str:
    """Return what may be wrong with the line at `mark`, or with the one above it, beside what the parser reports."""
    lines = [*re.split("\r\n|[\r\n\x85\u2028\u2029]", text), ""]  # as PyYAML counts them
    line = lines[mark.line]
    before, found = line[: mark.column], line[mark.column : mark.column + 1]
    above = next((one for one in reversed(lines[: mark.line]) if one.strip()), "")
    if "${" in line:
        return "; within { } and [ ] put ${NAME} in quotes"
    if "{{" in before:
        return "; put text that has {{ }} in quotes"
    if found == "{" and before.strip():
        return "; within { } and [ ] put text that has braces in quotes"
    if found == "\t":
        return "; indent with spaces, not tabs"
    if isinstance(error, yaml.scanner.ScannerError) and _NO_SPACE.match(above):
        return "; the line above may lack a space after its colon"
    if found == ":" and ": " in before:
        return "; put text that has a colon and a space in quotes"
    begun = error.context_mark
    if found == ":" and begun is None:
        return "; is this line indented like the line above?"
    if begun and not before.strip() and begun.column != mark.column and lines[begun.line][begun.column] not in "[{":
        return "; is this line indented like the line above?"
    return ""


def scalar(text: str) -> Value:
    """Return the value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        if _INTEGER.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _NUMBER.fullmatch(text):
            return float(text)
    except ValueError:  # more digits than Python converts
        pass
    return text


class _TooManyError(Exception):
    pass


class _Reader:
    """Turns the nodes of a file into values, and notes places and problems in the document."""

    def __init__(self, document: Document, file: str, environ: Mapping[str, str], known: Mapping[str, str]) -> None:
        self._document = document
        self._file = file
        self._environ = environ
        self._known = known  # until the root is read
        self._open: set[int] = set()
        self._nodes = 0

    def report(self, code: str, path: Path, line: int | None, **fields: Any) -> None:
        found = problem(code, path, **fields)
        self._document.problems.append(replace(found, file=self._file, line=line))

    def value(self, node: yaml.Node, path: Path) -> Value:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooManyError
        self._note(path, line)
        if id(node) in self._open:
            self.report("recursive_alias", path, line)
            return None
        if node.tag not in _CORE_TAGS:
            local = node.tag.startswith("!")  # may be a password
            self.report("unsupported_tag", path, line, name="!..." if local else node.tag)
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _note(self, path: Path, line: int) -> None:
        if path:
            self._document.places.lines.setdefault(dotted(path), (self._file, line))

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Value]:
        result: dict[str, Value] = {}
        first, self._known = dict(self._known), {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                template = isinstance(key_node, yaml.MappingNode) and key_node.flow_style
                self.report("unquoted_template" if template else "complex_key", path, line)
                continue
            key = self._text(key_node, path)
            if key == "<<" and key_node.style is None:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif key in first:
                self.report("duplicate_key", (*path, key), line, first=first[key])
            else:
                first[key] = f"line {line}"
                self._note((*path, key), line)
                result[key] = self.value(value_node, (*path, key))
        for other in merged:
            self._merge(other, result, path)
        return result

    def _merge(self, other: yaml.Node, result: dict[str, Value], path: Path) -> None:
        line = other.start_mark.line + 1
        if not isinstance(other, yaml.MappingNode):
            self.report("bad_merge", path, line)
            return
        if id(other) in self._open:
            self.report("recursive_alias", path, line)
            return
        # Keys of the mapping itself, or merged earlier, win: only the missing ones are read.
        missing = [(k, v) for k, v in other.value if not isinstance(k, yaml.ScalarNode) or k.value not in result]
        self._open.add(id(other))
        part = self._mapping(yaml.MappingNode(other.tag, missing, other.start_mark, other.end_mark), path)
        self._open.discard(id(other))
        for key, value in part.items():
            result.setdefault(key, value)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Value:
        source = self._text(node, path)
        text = _REFERENCE.sub(lambda match: self._referenced(match, node, path), source)
        value = scalar(text) if node.style is None else text
        if text != source or not isinstance(value, str):
            self._document.places.scalars[dotted(path)] = (source, text)
        return value

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        """The text of a node, in which two escapes that are a pair of surrogates, as in JSON, are one character."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.report("not_yaml", path, node.start_mark.line + 1, why="it has an escape that is not a character")
            return ""

    def _referenced(self, match: re.Match[str], node: yaml.ScalarNode, path: Path) -> str:
        if match[0] == "$${":
            return "${"
        # Only a literal block keeps its line breaks, so only there the line within it is known.
        line = node.start_mark.line + 1
        line += node.value.count("\n", 0, match.start()) + 1 if node.style == "|" else 0
        reference = _VARIABLE.fullmatch(match[1]) if match[2] else None
        if reference is None:
            self.report("bad_reference", path, line)
            return ""
        found = self._environ.get(reference[1])
        if reference[2] is not None:
            return found or str(reference[2])
        if found is None:
            self.report("unset_variable", path, line, name=reference[1])
        return found or ""
