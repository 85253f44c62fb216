"""The channels that `tocsin init` can set up, and what each needs. Pure."""

import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """One setting that has to be set."""

    name: str
    """As in the configuration of the channel."""
    question: str
    default: str = ""
    secret: bool = False
    """Whether it goes into a file of its own."""
    many: bool = False
    """Whether it is a list, written with commas."""

    @property
    def hidden(self) -> bool:
        """Whether it is not shown while it is typed. An address is, since it is checked by eye."""
        return self.secret and self.name == "api_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosable:
    """A channel to choose."""

    type: str
    """The type in the configuration."""
    what: str
    needs: tuple[Needed, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that are written beside the answers."""


def _by_secret(type_: str, what: str, name: str, question: str) -> Choosable:
    """A channel that needs one setting, which is secret."""
    return Choosable(type=type_, what=what, needs=(Needed(name=name, question=question, secret=True),))


_SUBSCRIBERS = "Subscribers to notify, with commas"
CHANNELS: Mapping[str, Choosable] = {
    "console": Choosable(type="console", what="a line on standard output"),
    "webhook": _by_secret("webhook", "an HTTP request to any address", "url", "Address of the webhook"),
    "novu": Choosable(
        type="novu",
        what="a workflow of Novu",
        needs=(
            Needed(name="api_key", question="API key of Novu", secret=True),
            Needed(name="workflow", question="Workflow to trigger"),
            Needed(name="recipients", question=_SUBSCRIBERS, many=True),
        ),
    ),
    "email": Choosable(
        type="email",
        what="mail through an SMTP server",
        needs=(
            Needed(name="host", question="SMTP server", default="localhost"),
            Needed(name="from", question="Sender's address"),
            Needed(name="to", question="Recipients, with commas", many=True),
        ),
    ),
    "slack": _by_secret(
        "apprise", "Slack, by the URL of an incoming webhook", "urls", "URL of Slack's incoming webhook"
    ),
    "apprise": _by_secret(
        "apprise", "SMS and a hundred chats, by an URL of Apprise", "urls", "URL of Apprise, as in tgram://token/chat"
    ),
    "alertmanager": Choosable(
        type="alertmanager",
        what="what fires, for Alertmanager",
        needs=(Needed(name="urls", question="Address of Alertmanager", default="http://127.0.0.1:9093", many=True),),
    ),
    "none": Choosable(type="", what="gauges alone"),
}

_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A channel with its settings."""

    name: str
    """A key of CHANNELS, and its name in the configuration."""
    settings: Mapping[str, str | list[str]]
    """As they are written, without secrets."""
    secrets: Mapping[str, str]
    """Setting -> secret."""

    @property
    def type(self) -> str:
        return CHANNELS[self.name].type


def missing(name: str, given: Mapping[str, str]) -> list[Needed]:
    """What is not set yet; a setting may also be named as a file, `url_file`."""
    return [need for need in CHANNELS[name].needs if not given.get(need.name) and f"{need.name}_file" not in given]


def chosen(name: str, given: Mapping[str, str]) -> Chosen:
    """The channel with what was answered."""
    many = {need.name for need in CHANNELS[name].needs if need.many}
    secret = {need.name for need in CHANNELS[name].needs if need.secret} | {"password", "signing_secret"}
    settings: dict[str, str | list[str]] = dict(CHANNELS[name].settings)
    for key, text in given.items():
        if key not in secret or text.startswith("${"):
            settings[key] = [part.strip() for part in text.split(",") if part.strip()] if key in many else text
    if name == "email" and given.get("host") in _LOCAL:
        settings.setdefault("security", "none")
    hidden = {key: text for key, text in given.items() if key in secret and not text.startswith("${")}
    return Chosen(name=name, settings=settings, secrets=hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where secrets go: files beside the configuration, or variables of the environment where it is printed."""

    file: str | None
    """The configuration file; None: it is printed."""

    def secret_file(self, name: str) -> str:
        """`tocsin.password` beside `tocsin.yaml`."""
        assert self.file is not None
        return f"{os.path.splitext(self.file)[0]}.{name}"  # noqa: PTH122 - a text in the file, as it was named

    def written(self, owner: str, setting: str) -> tuple[str, str]:
        """The setting as it is written: `password_file`, and the file; or `password`, and the variable."""
        if self.file is not None:
            return f"{setting}_file", self.secret_file(file_name(owner, setting))
        return setting, "${" + variable(owner, setting) + "}"


def file_name(owner: str, setting: str) -> str:
    """The end of a secret's file."""
    return "password" if owner == "database" else f"{owner}-{setting.replace('_', '-')}"


def variable(owner: str, setting: str) -> str:
    """The variable of a secret."""
    return "PGPASSWORD" if owner == "database" else f"{owner}_{setting}".upper()
