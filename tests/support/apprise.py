"""Apprise channels of the alert `late`, and their receiver on this machine."""

from typing import Any

from support.receiver import Receiver
from tocsin.channels import apprise as channel_apprise

SECRET = "S3CR3T-and-quite-long"


def chat(*urls: str, **settings: Any) -> Any:
    """A channel; `own`: options of the alert over its own."""
    own = settings.pop("own", {})
    config = channel_apprise.Config.model_validate({"type": "apprise", "urls": list(urls), **settings})
    common = {key: settings[key] for key in ("title", "body", "format") if key in settings}
    options = channel_apprise.Options.model_validate({**common, "urls": list(urls), **own})
    return channel_apprise.build("chat", config, {"late": options})


def at(receiver: Receiver, path: str = "", schema: str = "json") -> str:
    """The URL of a service at the receiver."""
    return f"{schema}://127.0.0.1:{receiver.port}/{path}"


def paths(receiver: Receiver) -> list[str]:
    """The paths of the requests, in order."""
    return [request.path for request in receiver.requests]
