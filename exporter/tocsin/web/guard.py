"""Decides about each request before a handler sees it: certificate, host, login, limits. `access` has the rules."""

import time
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tocsin.repeats import Repeats
from tocsin.web.access import Buckets, Password, Role, Rules, Token, certificate_names, credentials, network
from tocsin.web.passwords import BusyError, Passwords

log = structlog.get_logger(__name__)

_FAILURES = 10
_FAILURE_EVERY = 6.0
"""Failed logins that an address may make: so many at once, then one each so many seconds."""
_REFUSED = Repeats(log, "client refused")
_HEALTHY = frozenset({"/healthz", "/-/healthy"})
"""Answer without a login: the answer is always the same."""
_READY = frozenset({"/readyz", "/-/ready"})
"""Answer without a login too, then without reasons."""
_EVENTS = "/api/v1/events/{alert}"
"""Has the login of its source, a token or a signature."""

_ROLE: web.RequestKey[Role | None] = web.RequestKey("role", Role)


class Guard:
    """The middleware, with rules that may be replaced at any time."""

    def __init__(self, rules: Rules, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._passwords = Passwords()
        self._failures = Buckets(burst=_FAILURES, interval=_FAILURE_EVERY)
        self._rules = rules
        self._requests = _limit_of(rules)

    @property
    def rules(self) -> Rules:
        """The rules in effect."""
        return self._rules

    def replace(self, rules: Rules) -> None:
        """Put other rules into effect."""
        if (rules.burst, rules.interval) != (self._rules.burst, self._rules.interval):
            self._requests = _limit_of(rules)
        self._rules = rules

    def middleware(self) -> Middleware:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in _HEALTHY:
                request[_ROLE] = await self._role(request)
            return await handler(request)

        return guarded

    def demand_admin(self, request: web.Request) -> None:
        """Refuse a change unless the client may make it, and one that another site's page sends through a user's
        browser."""
        if not self.rules.admin:
            raise web.HTTPForbidden(text="changes over HTTP are switched off; set `web: {admin: true}` to allow them")
        if request.get(_ROLE) is not Role.ADMIN:
            raise web.HTTPForbidden(text="this needs the role admin: web.admins, or a token with `role: admin`")
        if _is_foreign(request):
            raise web.HTTPForbidden(text="requests from pages of other sites are refused")

    def may_change(self, request: web.Request) -> bool:
        """Return whether the client may make changes."""
        return self.rules.admin and request.get(_ROLE) is Role.ADMIN

    def close(self) -> None:
        self._passwords.close()

    async def _role(self, request: web.Request) -> Role | None:
        """Return the role of the client; None: it only gets what needs no login. Raises web.HTTPException."""
        if self._requests is not None:
            now = self._monotonic()
            if wait := self._requests.wait("", now):
                raise _too_many(wait, "too many requests: rate_limit in web.config_file")
            self._requests.take("", now)
        transport = request.transport
        names = certificate_names(transport.get_extra_info("peercert") if transport else None)
        if not self.rules.allows_certificate(names):
            raise self._refuse(request, 403, "the client certificate has none of the names in client_allowed_sans")
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical == _EVENTS:
            return None
        public = request.path in _READY
        host = _host(request)
        if not self.rules.knows_host(host):
            if public:
                return None
            why = f"the host {host!r} is not one of this port; add its name to web.hosts, or set a login"
            raise self._refuse(request, 403, why)
        if not self.rules.needs_login:
            return self.rules.of_user(None, names or frozenset())
        if public and "Authorization" not in request.headers:
            return None
        return await self._logged_in(request, names or frozenset())

    async def _logged_in(self, request: web.Request, names: frozenset[str]) -> Role:
        rules, source = self.rules, network(request.remote)
        try:
            given = credentials(request.headers.getall("Authorization", ()))
        except ValueError as error:
            raise self._failed(request, source, str(error)) from None
        match given:
            case None:
                raise self._unauthorized("a login is needed: a user of web.config_file, or a token of web.tokens")
            case Token(token):
                role = rules.of_token(token)
                if role is None:
                    raise self._failed(request, source, "the token is wrong")
                return role
            case Password(user):
                right = self._passwords.known(rules.users, given) if rules.users else False
                if right is None:
                    # Known passwords are let in whatever happens; unknown ones cost a core's time.
                    self._limit(source)
                    right = await self._checked(rules, given)
                if not right:
                    raise self._failed(request, source, "the user or the password is wrong")
                return rules.of_user(user, names)

    async def _checked(self, rules: Rules, given: Password) -> bool:
        try:
            return await self._passwords.check(rules.users, given)
        except BusyError:
            raise _too_many(1.0, "too many logins at once") from None

    def _limit(self, source: str) -> None:
        if wait := self._failures.wait(source, self._monotonic()):
            raise _too_many(wait, "too many failed logins from this address")

    def _failed(self, request: web.Request, source: str, why: str) -> web.HTTPException:
        """Count and log a failed login, and return its answer."""
        now = self._monotonic()
        wait = self._failures.wait(source, now)
        self._failures.take(source, now)
        # Without the name: people type passwords into the wrong field.
        _REFUSED.add("login", source, address=request.remote, why=why)
        return _too_many(wait, "too many failed logins from this address") if wait else self._unauthorized(why)

    def _unauthorized(self, why: str) -> web.HTTPException:
        scheme = "Basic" if self.rules.users else "Bearer"
        charset = ', charset="UTF-8"' if self.rules.users else ""
        return web.HTTPUnauthorized(text=why, headers={"WWW-Authenticate": f'{scheme} realm="Tocsin"{charset}'})

    def _refuse(self, request: web.Request, status: int, why: str) -> web.HTTPException:
        _REFUSED.add(str(status), why, address=request.remote, why=why)
        return web.HTTPForbidden(text=why)


def _limit_of(rules: Rules) -> Buckets | None:
    return Buckets(burst=rules.burst, interval=rules.interval) if rules.interval else None


def _too_many(wait: float, why: str) -> web.HTTPException:
    return web.HTTPTooManyRequests(text=why, headers={"Retry-After": str(max(round(wait + 0.5), 1))})


def _is_foreign(request: web.Request) -> bool:
    """Whether a page of another site sent the request."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        # Browsers set it. It also holds behind a proxy that changes the Host header.
        return site not in {"same-origin", "none"}
    return origin is not None and origin.partition("://")[2] != _host(request)


def _host(request: web.Request) -> str:
    """Return the header Host. Without one, `request.host` would look up the name of this machine."""
    return request.headers.get("Host", "")


def details(request: web.Request) -> bool:
    """Return whether the client may read what is not for everyone."""
    return request.get(_ROLE) is not None
