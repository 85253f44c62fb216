"""Notices a value column whose text is not a number, which makes NaN of the gauge."""

import re
from collections.abc import Iterable

import structlog

from tocsin.model import Columns, Row
from tocsin.values import is_number

log = structlog.get_logger(__name__)

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_DEBEZIUM = "; if it is a decimal of Debezium, set decimal.handling.mode of the connector to double or string"


class ValueColumn:
    """Warns once, with the name of the column."""

    def __init__(self, alert: str, column: str | None) -> None:
        """`column`: None for an alert without a value."""
        self._alert = alert
        self._column = column

    def seen(self, columns: Columns, rows: Iterable[Row]) -> None:
        """Check the values of rows."""
        if self._column is None:
            return
        place = next((place for place, column in enumerate(columns) if column.name == self._column), None)
        if place is None:
            return
        for row in rows:
            text = row[place]
            if text is not None and not is_number(text):
                hint = _DEBEZIUM if _BASE64.fullmatch(text) else ""
                log.warning(f"the value is not a number{hint}", alert=self._alert, column=self._column)
                self._column = None
                return
