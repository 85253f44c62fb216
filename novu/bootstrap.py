"""Set up a self-hosted Novu for Tocsin, without a browser: `docker compose --profile novu up` runs this.

    python3 novu/bootstrap.py secrets >> .env     random secrets for the profile, and the settings that enable it
    python3 novu/bootstrap.py check               check the secrets (service novu-secrets)
    python3 novu/bootstrap.py run                 register, fetch the key, create workflows and subscribers

`run` (service novu-bootstrap) can be repeated: it leaves existing objects as they are, even if they were changed in the
dashboard. The calls follow the documents and clients of Novu 3.19; they were tested with a replacement, not with a Novu
of that version. E-mail steps deliver nothing until an e-mail provider is connected in the dashboard; the in-app
provider comes with the organization.

Standard library only, since `secrets` runs where nothing is installed.
"""

import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIRED = {
    "JWT_SECRET": "NOVU_JWT_SECRET",
    "STORE_ENCRYPTION_KEY": "NOVU_STORE_ENCRYPTION_KEY",
    "NOVU_SECRET_KEY": "NOVU_SERVER_SECRET_KEY",
    "NOVU_ADMIN_PASSWORD": "NOVU_ADMIN_PASSWORD",
}
"""Name in the container -> name in `.env`."""

ENCRYPTION_KEY_LENGTH = 32
PATIENCE_S = 180.0
ENVIRONMENT = "Development"
ORGANIZATION = "Tocsin"

_IN_APP = {
    "name": "In-App",
    "type": "in_app",
    "controlValues": {"subject": "{{payload.title}}", "body": "{{payload.message}}"},
}
_EMAIL = {
    "name": "E-mail",
    "type": "email",
    "controlValues": {"subject": "{{payload.title}}", "body": "{{payload.message}}"},
}
_DELAY = {"name": "Delay", "type": "delay", "controlValues": {"type": "regular", "amount": 10, "unit": "seconds"}}

WORKFLOWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "deployment-spike": (_IN_APP, _EMAIL),
    "deployment-calm": (_IN_APP, _EMAIL),
    # Only a message in a delay step can be cancelled. The delay is `cancel_within` in compose/tocsin.yaml.
    "auction-rule": (_DELAY, _IN_APP, _EMAIL),
}
"""The workflows of compose/tocsin.yaml, with their steps in order."""

SUBSCRIBERS = ("team-a", "team-b", "team-c", "team-d", "auction-house")
"""The owners in the demo's data (materialize/), and the recipient for auctions."""


class BootstrapError(Exception):
    """What is wrong and what to do, for the reader of the log. Never contains a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status and JSON of an answer, `data` unwrapped."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Novu:
    """The REST API of a server."""

    url: str
    timeout: float = 15.0

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, authorization: str = "") -> Answer:
        """One request. Raises OSError if there is no answer."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if authorization:
            headers["Authorization"] = authorization
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data=data, headers=headers, method=method)  # noqa: S310 - the operator's own address
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310 - as above
                return Answer(status=answer.status, body=_data(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(status=error.code, body=_data(error.read()))


def key_of(novu: Novu, *, email: str, password: str) -> str:
    """The API key of the development environment. Registers the account if it does not exist.

    Raises BootstrapError if the server refuses the account, and OSError if it does not answer.
    """
    token = _token(novu, email, password)
    answer = novu.call("GET", "/v1/environments", authorization=f"Bearer {token}")
    environments = answer.body if answer.ok and isinstance(answer.body, list) else []
    for environment in environments:
        if environment.get("name") == ENVIRONMENT and environment.get("apiKeys"):
            return str(environment["apiKeys"][0]["key"])
    raise BootstrapError(
        f"Novu shows no environment {ENVIRONMENT} with an API key (GET /v1/environments: {answer.status})"
    )


def _token(novu: Novu, email: str, password: str) -> str:
    account = {"email": email, "password": password}
    # The log-in comes first: this runs at every start, and registers only at the first.
    answer = novu.call("POST", "/v1/auth/login", account)
    if not answer.ok:
        names = {"firstName": "Tocsin", "lastName": "Demo", "organizationName": ORGANIZATION}
        registered = novu.call("POST", "/v1/auth/register", {**account, **names})
        if not registered.ok:
            raise BootstrapError(
                f"{email} can neither log in to Novu ({_reason(answer)}) nor register ({_reason(registered)}). "
                "If the account is from an earlier start, put its NOVU_ADMIN_PASSWORD into .env; "
                "to start from scratch, remove the volume mongodb."
            )
        answer = registered
    token = answer.body.get("token") if isinstance(answer.body, dict) else None
    if not token:
        raise BootstrapError("Novu's answer to the log-in has no token")
    return str(token)


def add_workflows(novu: Novu, key: str) -> list[str]:
    """Create missing workflows; returns their names. Raises BootstrapError if one is refused."""
    created = []
    for name, steps in WORKFLOWS.items():
        found = novu.call("GET", f"/v2/workflows/{name}", authorization=f"ApiKey {key}")
        if found.ok:
            continue
        title = name.replace("-", " ").capitalize()
        wanted = {"name": title, "workflowId": name, "__source": "dashboard", "active": True, "steps": list(steps)}
        answer = novu.call("POST", "/v2/workflows", wanted, authorization=f"ApiKey {key}")
        if not answer.ok:
            raise BootstrapError(f"Novu refused the workflow {name}: {_reason(answer)}")
        created.append(name)
    return created


def add_subscribers(novu: Novu, key: str) -> list[str]:
    """Create missing subscribers; returns their names. Raises BootstrapError if one is refused."""
    created = []
    for name in SUBSCRIBERS:
        found = novu.call("GET", f"/v2/subscribers/{name}", authorization=f"ApiKey {key}")
        if found.ok:
            continue
        wanted = {"subscriberId": name, "firstName": name.capitalize(), "email": f"{name}@example.com"}
        answer = novu.call("POST", "/v2/subscribers", wanted, authorization=f"ApiKey {key}")
        if not answer.ok:
            raise BootstrapError(f"Novu refused the subscriber {name}: {_reason(answer)}")
        created.append(name)
    return created


def write_key(path: Path, key: str) -> None:
    """Write the key into a file that only its owner can read, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    partial.replace(path)


def run(
    environ: Mapping[str, str],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Do everything; waits for a server that is starting. Raises BootstrapError."""
    missing = [
        name
        for name in ("NOVU_URL", "NOVU_ADMIN_EMAIL", "NOVU_ADMIN_PASSWORD", "NOVU_KEY_FILE")
        if not environ.get(name)
    ]
    if missing:
        raise BootstrapError(f"not set: {', '.join(missing)}")
    novu = Novu(url=environ["NOVU_URL"])
    give_up = monotonic() + PATIENCE_S
    while True:
        try:
            key = key_of(novu, email=environ["NOVU_ADMIN_EMAIL"], password=environ["NOVU_ADMIN_PASSWORD"])
            created = {"workflows": add_workflows(novu, key), "subscribers": add_subscribers(novu, key)}
            break
        except OSError as error:
            if monotonic() > give_up:
                raise BootstrapError(f"no answer from {novu.url} for {PATIENCE_S:.0f} s: {error}") from None
            wait(2.0)
    path = Path(environ["NOVU_KEY_FILE"])
    write_key(path, key)
    for kind, names in created.items():
        print(f"{kind}: created {', '.join(names)}" if names else f"{kind}: nothing to create")
    print(f"the key of {ENVIRONMENT} is in {path}")


def check(environ: Mapping[str, str]) -> None:
    """Raises BootstrapError if a secret of the profile is missing or cannot be used."""
    missing = [shown for name, shown in REQUIRED.items() if not environ.get(name)]
    if missing:
        raise BootstrapError(
            f"the profile novu needs {', '.join(missing)} in .env; to write all of them: "
            "python3 novu/bootstrap.py secrets >> .env"
        )
    if len(environ["STORE_ENCRYPTION_KEY"]) != ENCRYPTION_KEY_LENGTH:
        raise BootstrapError(f"NOVU_STORE_ENCRYPTION_KEY must have exactly {ENCRYPTION_KEY_LENGTH} characters")


def settings(env_file: Path) -> str:
    """Lines for `.env`: the profile, where Tocsin finds it, and new secrets.

    Raises BootstrapError if the file has secrets already: with others, Novu could not read its own data.
    """
    if env_file.is_file() and any(line.startswith("NOVU_JWT_SECRET=") for line in env_file.read_text().splitlines()):
        raise BootstrapError(f"{env_file} already has these secrets, and Novu's data depends on them")
    # Novu requires an upper case and a lower case letter, a digit, and one of a few other characters.
    password = f"{secrets.token_hex(12)}-Aa1"
    return "".join(
        f"{line}\n"
        for line in (
            "",
            "# A self-hosted Novu (written by novu/bootstrap.py)",
            "COMPOSE_PROFILES=novu",
            "NOVU_URL=http://novu-api:3000",
            "NOVU_API_KEY_PATH=/run/novu/api-key",
            f"NOVU_JWT_SECRET={secrets.token_hex(32)}",
            f"NOVU_STORE_ENCRYPTION_KEY={secrets.token_hex(ENCRYPTION_KEY_LENGTH // 2)}",
            f"NOVU_SERVER_SECRET_KEY={secrets.token_hex(32)}",
            f"NOVU_ADMIN_PASSWORD={password}",
        )
    )


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command; returns the exit status."""
    try:
        match list(arguments):
            case ["secrets"]:
                sys.stdout.write(settings(Path(".env")))
            case ["check"]:
                check(environ)
            case ["run"]:
                run(environ)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (BootstrapError, OSError) as error:
        print(f"novu/bootstrap.py: {error}", file=sys.stderr)
        return 1
    return 0


def _data(text: bytes) -> Any:
    try:
        body = json.loads(text)
    except ValueError:
        return None
    return body["data"] if isinstance(body, dict) and "data" in body else body


def _reason(answer: Answer) -> str:
    """Status and message. The whole body may repeat the request."""
    message = answer.body.get("message") if isinstance(answer.body, dict) else None
    return f"{answer.status} {message}" if isinstance(message, str) else str(answer.status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
