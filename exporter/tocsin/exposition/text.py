"""The Prometheus text format, as far as a gauge needs it: label text, values, and the lines above a family."""

import math
from collections.abc import Iterable

NAN = b"NaN\n"
ZERO = b"0\n"
ONE = b"1\n"


def value(number: float) -> bytes:
    """A sample value with its line end: whole numbers as digits, others in the shortest form that reads back the
    same."""
    if number.is_integer() and -1e15 < number < 1e15:
        return b"%d\n" % int(number)
    if math.isfinite(number):
        return repr(number).encode() + b"\n"
    if math.isnan(number):
        return NAN
    return b"+Inf\n" if number > 0 else b"-Inf\n"


def escape(text: str) -> str:
    r"""A label value between the quotes: `\`, `"` and line feeds escaped, everything else as it is."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def needs_escape(text: str) -> bool:
    """Whether `escape` would change the text."""
    return "\\" in text or '"' in text or "\n" in text


def encode(text: str) -> bytes:
    """UTF-8 that Prometheus accepts. Text from JSON can contain half a surrogate pair, which becomes `?`: one line that
    is not UTF-8 makes Prometheus refuse the whole page."""
    return text.encode("utf-8", "replace")


def labels(pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    """`name="value"` of each pair that has a value: to Prometheus, an empty label is an absent one."""
    return [f'{name}="{escape(text)}"' for name, text in pairs if text]


def header(metric: str, help_text: str) -> bytes:
    """The lines above a gauge family, the same in both formats (OpenMetrics wants quotes in the help escaped, the
    other format has no such escape, so they become apostrophes)."""
    documentation = help_text.replace("\\", r"\\").replace("\n", r"\n").replace('"', "'")
    return encode(f"# HELP {metric} {documentation}\n# TYPE {metric} gauge\n")
