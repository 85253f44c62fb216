"""Checks passwords against bcrypt hashes, one at a time and off the event loop: a check takes 50 ms and more of a
core."""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from tocsin.web.access import Password

_LENGTH = 72
"""The bytes of a password that bcrypt uses. The package refuses longer ones, which Go and htpasswd cut."""
_CACHED = 100
_QUEUED = 16
_UNKNOWN = "$2b${cost}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
"""The form of the hash with which the password of an unknown user is compared, so that it takes as long."""


class BusyError(Exception):
    """Too many passwords are being checked."""


class Passwords:
    """The latest results are kept, right and wrong ones, as exporter-toolkit does. Only keyed hashes of passwords are
    kept."""

    def __init__(self) -> None:
        self._results: OrderedDict[bytes, bool] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._queued = 0

    def known(self, users: Mapping[str, str], given: Password) -> bool | None:
        """Return an earlier result; None: it has to be checked."""
        name = self._name(users, given)
        if name in self._results:
            self._results.move_to_end(name)  # or many wrong ones would push out those in use
        return self._results.get(name)

    async def check(self, users: Mapping[str, str], given: Password) -> bool:
        """Return whether the password is right. Raises BusyError."""
        if self._queued >= _QUEUED:
            raise BusyError
        hashed = users.get(given.user) or _unknown(users)
        self._queued += 1
        try:
            password = given.password.encode()[:_LENGTH]
            running = asyncio.get_running_loop().run_in_executor(self._thread, _matches, password, hashed.encode())
            right = await asyncio.shield(running) and given.user in users
        finally:
            self._queued -= 1
        self._results[self._name(users, given)] = right
        if len(self._results) > _CACHED:
            self._results.popitem(last=False)
        return right

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _name(self, users: Mapping[str, str], given: Password) -> bytes:
        # The hash is part of it: with a new password, the results of the old one are never found again.
        found = hashlib.blake2b(key=self._key)
        for part in (given.user, users.get(given.user, ""), given.password):
            content = part.encode()
            found.update(len(content).to_bytes(8, "big") + content)
        return found.digest()


def _matches(password: bytes, hashed: bytes) -> bool:
    return bcrypt.checkpw(password, hashed)


def _unknown(users: Mapping[str, str]) -> str:
    """Return a hash that no password has, of the highest cost among the users'."""
    return _UNKNOWN.replace("{cost}", max((hashed[4:6] for hashed in users.values()), default="10"))
