"""Channels of apprise to a receiver on this machine."""

from typing import Any

from support.receiver import Receiver
from support.waiting import until
from tocsin.channels import apprise as kind
from tocsin.channels.base import Retry
from tocsin.errors import Reason

SECRET = "S3CR3T-and-quite-long"
DISCORD = f"discord://{'1' * 18}/{SECRET}_abc"
TELEGRAM = f"tgram://123456789:{'a' * 35}/12345"
SMS = f"twilio://AC{'a' * 32}:{'b' * 32}@15551230000/15551231111"
NO_ANSWER = Retry(Reason.TIMEOUT, "no answer within 0.3 s")
HUNG = Retry(Reason.TIMEOUT, "no free slot within 0.3 s", 5.0, free=True)


def chat(*urls: str, **settings: Any) -> Any:
    """A channel of the alert `late`; `own`: options of the alert over its own."""
    own = settings.pop("own", {})
    config = kind.Config.model_validate({"type": "apprise", "urls": list(urls), **settings})
    common = {key: settings[key] for key in ("title", "body", "format") if key in settings}
    return kind.build("chat", config, {"late": kind.Options.model_validate({**common, "urls": list(urls), **own})})


def at(receiver: Receiver, path: str = "", schema: str = "json") -> str:
    """The URL of a service at the receiver."""
    return f"{schema}://127.0.0.1:{receiver.port}/{path}"


def paths(receiver: Receiver) -> list[str]:
    return [request.path for request in receiver.requests]


def aimed(channel: Any, receiver: Receiver) -> Any:
    """The channel, with the address of its known service replaced by that of the receiver."""
    [service] = channel._services.values()
    service._plugin.notify_url = f"{receiver.url}/{service.name}"
    service._plugin.webhook_url = f"{receiver.url}/Slack"
    service._plugin.notify_sms_url = receiver.url + "/{sid}"
    return channel


async def ended(channel: Any) -> None:
    await until(lambda: not channel._sends._tasks, "the threads end")
