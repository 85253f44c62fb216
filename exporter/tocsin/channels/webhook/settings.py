"""The configuration of a webhook channel."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from tocsin import signing
from tocsin.channels.settings import ChannelConfig, ChannelOptions, Trial, template
from tocsin.channels.webhook.request import BODILESS, METHODS, VARIABLES, Content, Recipe, check_url, url_secrets
from tocsin.redaction import masker
from tocsin.settings import Secret, invalid, secret_file
from tocsin.templates import FixedNames, Template, TemplateError

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
Status = Annotated[int, Field(ge=200, le=599)] | Annotated[str, Field(pattern="^[2-5]xx$")]

_OWN_HEADERS = {"idempotency-key", "content-length", "host"}
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE = "_file"
_LOGIN = re.compile(r"https?://[^/?#]*@", re.IGNORECASE)


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    body: Annotated[dict[str, Any] | list[Any], template(VARIABLES)] | None = None
    """The JSON to send. Every string in it is a template over the envelope's keys and `secrets`. Default: the
    envelope."""

    body_text: Annotated[str, template(VARIABLES)] | None = None
    """Instead of `body`: one template that renders the body, of any `content_type`. If that is JSON, text that is not
    JSON is never sent."""

    content_type: Annotated[str, Field(pattern=r"^[\w.+-]+/[\w.+-]+( *;[ -~]*)?$")] | None = None
    """The Content-Type of the body. Default: `application/json`, or `application/x-ndjson` for `batch: ndjson`."""

    @model_validator(mode="after")
    def _has_one_body(self) -> "Options":
        if self.body is not None and self.body_text is not None:
            raise invalid(
                "not_both", "set body or body_text, not both; `body: null` removes the channel's body for one alert"
            )
        return self


class Config(ChannelConfig, Options):
    """An HTTP request for each notification, at least once. Receivers detect repeats by the `Idempotency-Key` header.
    `url`, `method`, `headers`, `query` and the body are templates."""

    secrets: ClassVar[tuple[str, ...]] = ("url", "signing_secret")

    type: Literal["webhook"]
    """The kind of channel."""

    url: Secret
    """The http or https address, treated as a secret since it often contains a token. Values of `{{ }}` are
    percent-encoded, except secrets and an expression at the beginning."""

    url_file: str | None = None
    """A file that holds the url."""

    method: str = "POST"
    """The HTTP method: GET, POST, PUT, PATCH or DELETE. GET and DELETE have no body."""

    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """Headers to add, for example Authorization. Their values are secrets."""

    query: dict[str, Annotated[Secret, template(VARIABLES)]] = Field(default_factory=dict)
    """Parameters to add to the url. Their values are secrets."""

    secret_values: dict[str, Secret] = Field(default_factory=dict, alias="secrets")
    """Secrets for templates, by name: `token: ...`, or `token_file:` with a file that holds it, is
    `{{ secrets.token }}`."""

    success: Annotated[tuple[Status, ...], Field(min_length=1)] = ("2xx",)
    """The statuses of an accepted notification: `200`, or `2xx` for all that begin with 2."""

    max_redirects: Annotated[int, Field(ge=0, le=10)] = 0
    """Has no effect: redirects are not followed. Set the final address as `url`."""

    allow_private: bool | None = None
    """Whether the receiver may have a private address (loopback, link-local and the like). Default: yes, unless rows
    can name the host."""

    signing_secret: Secret | None = None
    """Signs by the Standard Webhooks specification: `whsec_` and base64. For a rotation, set several with blanks
    between them; each of them signs."""

    signing_secret_file: str | None = None
    """A file that holds the signing_secret."""

    batch: Literal["array", "ndjson"] | None = None
    """Sends pending notifications in one request: as a JSON array, or as lines of JSON. Default: one request each."""

    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 100
    """The most notifications in one request."""

    batch_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    """The most bytes in the body of several notifications."""

    max_body: Annotated[int, Field(ge=1)] = 4_194_304
    """The most bytes in the body of one message. A larger digest is sent in parts; a larger notification becomes a dead
    letter without being sent."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: Secret) -> Secret:
        check_url(url.get_secret_value())
        return url

    @field_validator("method")
    @classmethod
    def _is_a_method(cls, method: str) -> str:
        if Template(method, place="", known=VARIABLES).constant and method not in METHODS:
            raise invalid("method", "must be {available}, or a template of one", available=", ".join(METHODS))
        return method

    @field_validator("headers")
    @classmethod
    def _are_single_lines(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        for name, value in headers.items():
            text = value.get_secret_value()
            Template(text, place=f".{name}", known=VARIABLES)
            if not text.isprintable():
                raise invalid("header_value", "a header value is one line of printable characters", name)
            if name.lower() in _OWN_HEADERS:
                raise invalid("own_header", "{name} is set by Tocsin", name, name=name)
            if name.lower() == "content-type":
                raise invalid("own_header", "{name} is set by content_type", name, name=name)
        return headers

    @field_validator("secret_values", mode="before")
    @classmethod
    def _reads_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        found: dict[str, Any] = {}
        for key, value in values.items():
            name = str(key).removesuffix(_FILE)
            if not _SECRET_NAME.fullmatch(name):
                raise invalid("secret_name", "the name of a secret is made of letters, digits and _", str(key))
            if name in found:
                raise invalid("not_both", "set {name} or {name}_file, not both", name=name)
            found[name] = value if name == key else SecretStr(secret_file(value, key))
        return found

    @field_validator("signing_secret")
    @classmethod
    def _signs(cls, secret: Secret | None) -> Secret | None:
        if secret is not None:
            signing.Signer(secret.get_secret_value().split())
        return secret

    @model_validator(mode="after")
    def _leaves_signatures_alone(self) -> "Config":
        for name in self.headers if self.signing_secret else ():
            if name.lower() in signing.HEADERS:
                raise invalid("own_header", "{name} is set by the signature", "headers", name, name=name)
        return self

    @model_validator(mode="after")
    def _has_one_login(self) -> "Config":
        for name in self.headers if _LOGIN.match(self.url.get_secret_value()) else ():
            if name.lower() == "authorization":
                raise invalid("two_logins", "the url has a login, too; keep one of them", "headers", name)
        return self

    @model_validator(mode="after")
    def _can_batch(self) -> "Config":
        if self.batch and self.method in BODILESS:
            raise invalid(
                "bodiless", "a request of several needs a body, which {name} has not", "batch", name=self.method
            )
        return self

    def ineffective(self) -> Mapping[str, str]:
        return (
            {"max_redirects": "redirects are not followed; set the final address as url"} if self.max_redirects else {}
        )

    def statuses(self) -> frozenset[int]:
        """The statuses in `success`, one by one."""
        found: set[int] = set()
        for status in self.success:
            found |= {status} if isinstance(status, int) else {*range(int(status[0]) * 100, int(status[0]) * 100 + 100)}
        return frozenset(found)

    def named_secrets(self) -> FixedNames:
        """What templates find under `secrets`."""
        return FixedNames({name: value.get_secret_value() for name, value in self.secret_values.items()})

    def recipe(self) -> Recipe:
        """Where requests go and how."""
        query = {name: value.get_secret_value() for name, value in self.query.items()}
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        return Recipe(self.method, self.url.get_secret_value(), query, headers, self.named_secrets())

    def content(self, options: Options) -> Content:
        """The body that these options make."""
        return Content(options.body, options.body_text, options.content_type, self.batch)

    def confidential(self) -> list[str]:
        """Everything that must not be shown."""
        return [*url_secrets(self.url.get_secret_value()), *self.tokens()]

    def tokens(self) -> list[str]:
        """What must not be shown, besides the url."""
        signing_secrets = self.signing_secret.get_secret_value().split() if self.signing_secret else []
        named = [*self.secret_values.values(), *self.headers.values(), *self.query.values()]
        return [*signing_secrets, *(value.get_secret_value() for value in named)]

    def trial(self, options: Options) -> Trial:
        secrets, mask = self.named_secrets(), masker(self.confidential())
        recipe, content = self.recipe(), self.content(options)

        def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
            seen = {**variables, "secrets": secrets} if secrets else variables
            for error in recipe.faults(seen):
                yield error.masked(mask)
            try:
                content.render(variables, seen)
            except TemplateError as error:
                yield error.masked(mask)

        return faults
