"""The configuration of a Python channel."""

import keyword
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.settings import Secret


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} cannot be the name of an argument")
    return arguments


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    arguments: Annotated[dict[str, Any], AfterValidator(_named)] = Field(default_factory=dict)
    """Keyword arguments for the handler."""

    secret_arguments: Annotated[dict[str, Secret], AfterValidator(_named)] = Field(default_factory=dict)
    """Keyword arguments that are never shown, such as a token."""


class Config(ChannelConfig, Options):
    """A handler in Python, called in this process at least once for each notification. A function runs in a thread, an
    `async` one in the event loop."""

    checked_by_building: ClassVar[bool] = True

    type: Literal["python"]
    """The kind of channel."""

    handler: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?$")]
    """`module:name`, or the name of an entry point of the group `tocsin.handlers`."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A directory with the module, besides the installed packages."""
