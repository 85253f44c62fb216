"""A line of the table that `make bench` prints."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure. `target`: what it should be, in words; `met`: whether it is, None where there is no
    target."""

    name: str
    measured: str
    target: str = ""
    met: bool | None = None


def table(figures: list[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| what | measured | target | met |", "| --- | --- | --- | --- |"]
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        lines.append(f"| {figure.name} | {figure.measured} | {figure.target} | {met} |")
    return "\n".join(lines)
