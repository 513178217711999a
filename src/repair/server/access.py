"""Who asks, and whether they may: keys, the loopback address, roles and rates; no edits."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.requests import Request

from repair.errors import NotAllowed, RateLimited, UnknownKey
from repair.ledger import Ledger
from repair.people import People, Person, Policy, Role

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
_MOST_METERS = 10_000


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host in LOCAL_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Meter:
    """A token bucket for each name: ``per_minute`` at once, refilled evenly."""

    def __init__(self, per_minute: int) -> None:
        self._most = float(per_minute)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> None:
        """One unit for ``name``.

        Raises:
            RateLimited: there is none left.
        """
        now = time.monotonic()
        left, since = self._left.pop(name, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60.0)
        self._left[name] = (max(left - 1.0, 0.0), now)
        if len(self._left) > _MOST_METERS:
            self._left.popitem(last=False)
        if left < 1.0:
            raise RateLimited(
                f"More than {self._most:g} requests a minute.", "Wait a moment and ask again."
            )


class Access:
    """Tells who sent a request and what they may do.

    Args:
        local: the server listens on a loopback address alone.
    """

    def __init__(self, people: People, policy: Policy, *, local: bool) -> None:
        self.people = people
        self.policy = policy
        self.local = local
        self._requests = Meter(policy.requests_per_minute)
        self._edits = Meter(policy.edits_per_minute)

    def person(self, request: Request) -> Person:
        """Who asks; counts the request.

        Raises:
            UnknownKey: a key that is not in force, or none where one is needed.
            NotAllowed: a page of another site asks without a key.
            RateLimited: too many requests.
        """
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        host = request.client.host if request.client else "127.0.0.1"
        if kind.lower() == "bearer" and key.startswith("rk-"):
            found = self.people.who(key.strip())
            if found is None:
                raise UnknownKey("The key is not in force.", "Ask for a new one.")
        else:
            # Clients that insist on a key are given any; it is no key of ours, so it is none.
            found = self._without_key(request, host)
        self._requests.take(found.name or host)
        return found

    def _without_key(self, request: Request, host: str) -> Person:
        named = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        forwarded = "forwarded" in request.headers or "x-forwarded-for" in request.headers
        inside = self.local and is_loopback(host) and is_loopback(named) and not forwarded
        role: Role | None = self.policy.anonymous if inside else self.policy.stranger
        if role is None:
            raise UnknownKey("This server answers only with a key.", "Send one as a bearer token.")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise NotAllowed("A page of another site asks.", "Use a key.")
        return Person("", role)

    def require(self, person: Person, role: Role) -> None:
        """Raises NotAllowed when ``person`` has not at least ``role``."""
        if not person.may(role):
            raise NotAllowed(f"This needs the role {role} or a higher one.", "Ask an admin for it.")

    def editing(self, person: Person, ledger: Ledger, *, own: bool = False) -> Ledger:
        """The ledger as ``person`` edits through it; counts the edit.

        A member's edits are their own. A curator's are everyone's, unless ``own`` or the
        policy asks for a second person's approval.

        Raises:
            NotAllowed: a reader, or nobody whose own edit it could be.
            RateLimited: too many edits.
        """
        self.require(person, "member")
        self._edits.take(person.name)
        shared = person.may("curator") and not own and not self.policy.approval
        if not shared and not person.name:
            raise NotAllowed("An edit of one's own needs a name.", "Use a key.")
        return ledger.view(person.name, shared=shared, actor=actor(person))

    def seen(self, person: Person, ledger: Ledger) -> Ledger:
        """The ledger as ``person`` sees it and may take edits back through it."""
        shared = person.may("curator")
        return ledger.view(person.name, shared=shared, actor=actor(person))

    def quoting(self, person: Person, view: Ledger, identity: int) -> None:
        """Whether ``person`` may be shown what an edit made the model forget.

        Raises:
            UnknownEdit: the person's view has no such edit.
            NotAllowed: it is not their own, and they are no curator.
        """
        view.edit(identity)
        if not person.name or view.owner_of(identity) != person.name:
            self.require(person, "curator")

    def publish(self, person: Person, ledger: Ledger, identity: int) -> None:
        """Make somebody's own edit everyone's.

        Raises:
            NotAllowed: no curator, or one's own edit where a second person has to approve.
        """
        self.require(person, "curator")
        proposer = ledger.owner_of(identity)
        if self.policy.approval and proposer == person.name:
            raise NotAllowed("A second person has to approve this.", "Ask another curator.")
        ledger.view(person.name, shared=True, actor=actor(person)).publish(identity)


def actor(person: Person) -> str:
    """What the journal calls somebody."""
    return person.name or "anonymous"
