"""The configuration of a Novu channel."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.settings import Duration, Secret, Settings, invalid
from tocsin.templates import Structure, Template

Name = Annotated[str, Field(min_length=1, pattern=r"\S")]

MAX_RECIPIENTS = 100
"""Novu's documented limit for one trigger; a server that takes more may drop them."""


KNOWN_OVERRIDES: Mapping[str, Any] = {
    "steps": {"*": {"providers": None, "layoutId": None, "layout_id": None}},
    "channels": {"email": {"layoutId": None, "layout_id": None}},
    "providers": None,
    "severity": None,
    "email": None,
    "push": None,
    "sms": None,
    "chat": None,
    "layoutIdentifier": None,
    "layout_identifier": None,
}
"""The keys of overrides that the SDK sends; it drops every other one in silence. `*`: any key; None: anything."""


class FromColumn(Settings):
    """The subscriber ids that a column of the row holds."""

    column: Name
    """A text column with ids between commas, or an array, list or jsonb array of ids."""


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    workflow: Name | None = None
    """The identifier of the workflow to trigger. It must be given here or for the alert."""

    recipients: list[Name | FromColumn] = Field(default_factory=list)
    """Subscriber ids, or `column: name` for those in a column of the row. Each gets one message, however often it is
    named."""

    topics: list[Name] = Field(default_factory=list)
    """Keys of topics whose subscribers are notified."""

    payload: list[Name] | dict[str, Any] | None = None
    """What the workflow gets: a list of columns, or a mapping whose strings are templates. Without it, the envelope."""

    actor: str | None = None
    """The subscriber shown as the one who acted; a template."""

    tenant: str | None = None
    """The tenant's identifier; a template."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Novu's overrides (`steps`, `channels`, `providers`, `severity`); every string in it is a template. A key that
    would not be sent is refused: settings of one provider go below `providers`."""

    on_resolve: Literal["nothing", "cancel", "cancel_and_delete", "trigger"] = "nothing"
    """What happens when a row stops firing. `cancel` stops what still waits in a delay or digest step;
    `cancel_and_delete` also takes back in-app messages; `trigger` triggers `resolved_workflow`."""

    resolved_workflow: Name | None = None
    """The workflow for `on_resolve: trigger`."""

    cancel_within: Duration = 10.0
    """The length of the workflow's delay. Novu answers a cancel that comes too early like one that comes too late, and
    says yes as soon as it reached one of several recipients. So the cancel is repeated for so long after the row
    stopped firing, or after Novu accepted the trigger if that was later; with a single recipient, until the first
    yes."""

    @field_validator("payload", "overrides")
    @classmethod
    def _compiles(cls, shape: Any) -> Any:
        if isinstance(shape, dict):
            Structure(shape, place="")
        return shape

    @field_validator("overrides")
    @classmethod
    def _is_sent(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        _must_be_known(overrides, KNOWN_OVERRIDES)
        return overrides

    @field_validator("actor", "tenant")
    @classmethod
    def _is_template(cls, text: str | None) -> str | None:
        if text is not None:
            Template(text, place="")
        return text

    @model_validator(mode="after")
    def _resolves(self) -> "Options":
        if self.on_resolve == "trigger" and self.resolved_workflow is None:
            raise invalid("needs", "trigger needs resolved_workflow, the workflow to trigger then", "on_resolve")
        return self

    @property
    def cancels(self) -> bool:
        """Whether a resolve cancels what was triggered."""
        return self.on_resolve in ("cancel", "cancel_and_delete")

    def missing(self) -> str | None:
        """What has to be said, for the channel or for the alert, before anything can be sent, as a sentence."""
        if self.workflow is None:
            return "no workflow is given, neither for the alert nor for the channel"
        if not self.recipients and not self.topics:
            return "neither recipients nor topics are given, so Novu would deliver to nobody"
        return None


def _must_be_known(given: Mapping[str, Any], known: Mapping[str, Any], *at: str) -> None:
    """Raise the error of a validator for a key that the SDK would drop."""
    for key, value in given.items():
        if key not in known and "*" not in known:
            names = ", ".join(name for name in known if "_" not in name)
            raise invalid(
                "unknown_override", "would not be sent: Novu's SDK knows only {available}", *at, key, available=names
            )
        below = known.get(key, known.get("*"))
        if isinstance(value, dict) and below is not None:
            _must_be_known(value, below, *at, key)


class Config(ChannelConfig, Options):
    """Novu, its cloud or one's own: a workflow is triggered, alone at once and in bulk when many wait; on resolve
    nothing, a cancellation, or another workflow. Needs the extra `novu`: pip install 'tocsin[novu]'."""

    package: ClassVar[str] = "novu_py"

    secrets: ClassVar[tuple[str, ...]] = ("api_key",)

    type: Literal["novu"]
    """The kind of channel."""

    api_key: Secret
    """The secret key of the environment."""

    api_key_file: str | None = None
    """A file that holds the api_key."""

    url: str = "https://api.novu.co"
    """Where the API is. https://eu.api.novu.co for the cloud in the EU."""

    max_payload: Annotated[int, Field(ge=1)] = 524_288
    """Bytes of JSON that a payload may have. The cloud refuses more than the default, other servers may accept and
    lose it. A larger digest is sent in parts."""

    unknown_outcome_wait: Annotated[Duration, Field(ge=1)] = 2.0
    """The least wait before a repeat when it is not known whether Novu has the first. At least `1s`: Novu delivers an
    id twice that comes again within milliseconds, and drops the second when it comes later."""

    @property
    def recovery_delay(self) -> float:
        return self.unknown_outcome_wait

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise ValueError("write the address of the API alone, such as https://api.novu.co")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _is_a_word(cls, key: Secret) -> Secret:
        text = key.get_secret_value()
        if not text.isascii() or not text.isprintable() or not text.strip():
            raise ValueError("an API key is one line of ASCII characters")
        return key
