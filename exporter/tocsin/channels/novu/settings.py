"""The configuration of a Novu channel."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tocsin.channels.settings import ChannelConfig, ChannelOptions, Column, Name, TemplateText, template
from tocsin.settings import Duration, Secret, Settings, invalid, plain
from tocsin.templates import Structure

_Workflow = Annotated[Name, plain("set another workflow where an alert notifies the channel")]
_Subscriber = Annotated[Name, plain("for a column of the row write {column: its name}")]
_Topic = Annotated[Name, plain("set other topics where an alert notifies the channel")]

MAX_RECIPIENTS = 100
"""Novu's documented limit for one trigger; a server that accepts more may drop them."""

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
"""The keys of overrides that the SDK sends; it drops all others silently. `*`: any key; None: any value."""


class FromColumn(Settings):
    """The subscriber ids that a column of the row holds."""

    column: Column
    """A text column with ids separated by commas, or an array, list or jsonb array of ids."""


class Options(ChannelOptions):
    """The options of a channel that an alert may override."""

    templates: ClassVar[tuple[str, ...]] = ("payload", "overrides", "actor", "tenant")

    workflow: _Workflow | None = None
    """The identifier of the workflow to trigger. Required for the channel or for the alert."""

    recipients: list[_Subscriber | FromColumn] = Field(default_factory=list)
    """Subscriber ids, or `column: name` for those in a column of the row. Each gets one message, also if listed
    twice."""

    topics: list[_Topic] = Field(default_factory=list)
    """Keys of topics whose subscribers are notified."""

    payload: list[Column] | dict[str, Any] | None = None
    """The payload of the workflow: a list of columns, or a mapping whose strings are templates. Default: the
    envelope."""

    actor: TemplateText | None = None
    """The subscriber id of the actor; a template."""

    tenant: TemplateText | None = None
    """The tenant's identifier; a template."""

    overrides: Annotated[dict[str, Any], template()] = Field(default_factory=dict)
    """Novu's overrides (`steps`, `channels`, `providers`, `severity`); every string in it is a template. A key that the
    SDK does not send is refused: put settings of one provider below `providers`."""

    on_resolve: Literal["nothing", "cancel", "cancel_and_delete", "trigger"] = "nothing"
    """The action when a row stops firing. `cancel` cancels pending delay and digest steps; `cancel_and_delete` also
    deletes in-app messages; `trigger` triggers `resolved_workflow`."""

    resolved_workflow: _Workflow | None = None
    """The workflow for `on_resolve: trigger`."""

    cancel_within: Duration = 10.0
    """The length of the workflow's delay. Novu gives the same answer to a cancel that is too early and to one that is
    too late, and answers yes after the first of several recipients. So the cancel is repeated for this time after the
    row stopped firing, or after Novu accepted the trigger if that was later; with a single recipient, until the first
    yes."""

    @field_validator("payload")
    @classmethod
    def _compiles(cls, payload: Any) -> Any:
        if isinstance(payload, dict):
            Structure(payload, place="")
        return payload

    @field_validator("overrides")
    @classmethod
    def _is_sent(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        _must_be_known(overrides, KNOWN_OVERRIDES)
        return overrides

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
        if self.workflow is None:
            return "no workflow is set for the channel or the alert"
        if not self.recipients and not self.topics:
            return "neither recipients nor topics are set, so Novu would deliver nothing"
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
    """Novu's cloud or a self-hosted Novu: triggers a workflow, in bulk when several notifications are pending. On
    resolve nothing, a cancellation, or another workflow. Needs the extra `novu`: pip install 'tocsin[novu]'."""

    package: ClassVar[str] = "novu_py"

    secrets: ClassVar[tuple[str, ...]] = ("api_key",)

    type: Literal["novu"]
    """The kind of channel."""

    api_key: Secret
    """The secret key of the environment."""

    api_key_file: str | None = None
    """A file that holds the api_key."""

    url: str = "https://api.novu.co"
    """The address of the API. https://eu.api.novu.co for the cloud in the EU."""

    max_payload: Annotated[int, Field(ge=1)] = 524_288
    """The most bytes of JSON in a payload. The cloud refuses more than the default, other servers may accept and lose
    it. A larger digest is sent in parts."""

    unknown_outcome_wait: Annotated[Duration, Field(ge=1)] = 2.0
    """The least wait before a repeat if it is unknown whether Novu accepted the first. At least `1s`: Novu delivers an
    id twice if it is repeated within milliseconds, and drops a later repeat."""

    @property
    def recovery_delay(self) -> float:
        return self.unknown_outcome_wait

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise invalid("address", "write the address of the API alone, such as https://api.novu.co")
        if parts.path.rstrip("/").endswith(("/v1", "/v2")):
            raise invalid("api_path", "write the address without /v1 or /v2, which the SDK adds")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _is_a_word(cls, key: Secret) -> Secret:
        text = key.get_secret_value()
        if not text.isascii() or not text.isprintable() or not text.strip():
            raise invalid("api_key", "an API key is one line of ASCII characters")
        return key
