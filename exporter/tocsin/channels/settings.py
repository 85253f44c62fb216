"""Settings that every channel has."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from tocsin.envelope import CONDITION_VARIABLES
from tocsin.model import Kind
from tocsin.settings import Duration, Settings, invalid, plain
from tocsin.templates import VARIABLES, Condition, Structure, Template, TemplateError


def template(known: Collection[str] = VARIABLES) -> AfterValidator:
    """Check that a text, a secret, or each string in nested data is a template over these variables."""

    def compiled(value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        (Template if isinstance(text, str) else Structure)(text, place="", known=known)
        return value

    return AfterValidator(compiled)


Name = Annotated[str, Field(min_length=1, pattern=r"\S")]
"""Text that is not empty."""

Column = Annotated[Name, plain("write the name of a column alone")]

TemplateText = Annotated[str, template()]
"""A template over the envelope's keys."""

Trial: TypeAlias = Callable[[Mapping[str, object]], Iterator[TemplateError]]
"""Finds what is wrong with the message that is made of a notification with these variables. The place of an error
begins with the name of an option. No error holds a secret."""


class RouteOptions(Settings):
    """The options of a channel or level output that an alert may override."""

    templates: ClassVar[tuple[str, ...]] = ()
    """The options that are templates, which `tocsin check` tries."""

    when: str | None = None
    """An expression on the row, such as `row.severity == "page"`: only rows for which it is true are sent."""

    def missing(self) -> str | None:
        """Return what must be set, for the channel or for the alert, before anything can be sent."""
        return None

    @field_validator("when")
    @classmethod
    def _is_a_condition(cls, when: str | None) -> str | None:
        if when is not None:
            Condition(when, place="", known=CONDITION_VARIABLES)
        return when


class ChannelOptions(RouteOptions):
    """The options of a channel that an alert may override."""

    on: Annotated[tuple[Kind, ...], Field(min_length=1)] = tuple(Kind)
    """Which notifications are sent: `fired`, `updated`, `resolved`, `repeated`, `event`."""

    when: str | None = None
    """An expression on the row, such as `row.severity == "page"`: only rows for which it is true are sent. A row that
    changes so that it becomes true fires on this channel; if it becomes false, the row resolves."""

    interval: Duration = 0.0
    """The first notification is sent at once. Those that follow within this time are merged into one message at its
    end, which starts the next interval. `0`: each notification is sent on its own."""

    group_by: tuple[Annotated[str, plain("write the name of a column or label alone")], ...] = ()
    """With `interval`: the columns or labels that divide an alert into groups, each merged on its own. Default: one
    group. A row without one of the columns is sent on its own."""

    @model_validator(mode="after")
    def _groups_are_merged(self) -> "ChannelOptions":
        if self.group_by and not self.interval:
            raise invalid("needs", "needs interval", "group_by")
        return self


class OutputConfig(Settings):
    """The settings of every channel and level output."""

    checked_by_building: ClassVar[bool] = False
    """Whether building the channel finds problems of this machine, such as a missing file. Building connects to
    nothing."""

    type: str
    """The kind of channel."""

    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """The time limit of one attempt."""

    backoff_initial: Annotated[Duration, Field(gt=0)] = 1.0
    """The wait after the first failed attempt. It doubles with each attempt."""

    backoff_max: Annotated[Duration, Field(gt=0)] = 300.0
    """The longest wait between two attempts."""

    def trial(self, options: Any) -> Trial:
        """Return the check of the messages that these options make."""
        values = {name: getattr(options, name) for name in options.templates}
        structures = [Structure(value, place=name) for name, value in values.items() if value]

        def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
            for structure in structures:
                try:
                    structure.render(variables)
                except TemplateError as error:
                    yield error

        return faults

    def ineffective(self) -> Mapping[str, str]:
        """The settings that are set without effect, each with what to do."""
        return {}

    @model_validator(mode="after")
    def _backoff_in_order(self) -> Self:
        if self.backoff_max < self.backoff_initial:
            raise invalid("too_short", "must not be less than backoff_initial", "backoff_max")
        return self


class ChannelConfig(OutputConfig):
    """The settings of every channel."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 4
    """The most requests at once."""

    max_attempts: Annotated[int, Field(ge=1)] | None = None
    """The attempts after which a notification becomes a dead letter. Waits that the receiver asked for do not count.
    Default: no limit but `max_age`, so that a receiver may be down for hours."""

    max_age: Annotated[Duration, Field(gt=0)] = 86400.0
    """A notification whose attempt fails at this age or later becomes a dead letter. One that was not attempted
    meanwhile, as while a channel is paused, is still sent."""

    rate_limit: Annotated[float, Field(gt=0)] | None = None
    """The most notifications per second. Default: no limit."""

    @property
    def recovery_delay(self) -> float:
        """Seconds that pending notifications wait at the start, since the process before may just have sent them."""
        return 0.0
