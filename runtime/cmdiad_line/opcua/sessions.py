"""Sessions that close gaps of asyncua 2.1 and pass the account of the caller to the methods.

asyncua accepts three things that a station must not accept:

- A session on a channel without security, although the server offers only secured endpoints: the unsecured channel is
  open for discovery, and nothing checks it when a session is activated.
- A failed attempt to move a session to another channel: the connection keeps the session of the other client, and may
  use it without a password. The number of a session is easy to guess.
- `RegisterServer` without a session, which fills the memory and sends clients to other servers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession

from cmdiad_line.accounts.account import Account

caller: ContextVar[Account | None] = ContextVar("caller", default=None)
"""Account of the client whose method call is being executed."""
LARGEST_NUMBER_OF_CONNECTIONS = 50
"""Connections from clients at the same time."""

AllowedPeer = Callable[[bytes | None], bool]
"""Function that returns True if a client may use a channel with a certificate (DER), or without one (None)."""
_NOBODY = User(role=UserRole.Anonymous)


class StationUser(User):
    """A signed-in client.

    Args:
        account: Account of the client.
    """

    def __init__(self, account: Account) -> None:
        super().__init__(role=UserRole.User, name=account.name)
        self.account = account


class Accounts(Protocol):
    """Check of names and passwords; `sign_in.SignIn` in a running server."""

    def get_user(
        self, iserver: object, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> StationUser | None:
        """Return the user if name and password are right, else None."""

    def present(self, account: Account) -> Account | None:
        """Return the account if it is unchanged since its client signed in, else None."""


class StationSession(InternalSession):
    """A session of a client."""

    def activate_session(
        self, params: ua.ActivateSessionParameters, peer_certificate: bytes | None
    ) -> ua.ActivateSessionResult:
        """Activate the session if its channel is secured by an allowed certificate, and the password is right."""
        assert isinstance(self.iserver, StationInternalServer)
        if not self.iserver.allowed_peer(peer_certificate or None):  # asyncua has b"" on an unsecured channel.
            codes = ua.StatusCodes
            raise ServiceError(codes.BadCertificateUntrusted if peer_certificate else codes.BadSecurityModeInsufficient)
        return super().activate_session(params, peer_certificate)

    async def call(self, params: list[ua.CallMethodRequest]) -> list[ua.CallMethodResult]:
        """Call methods with `caller` set."""
        assert isinstance(self.iserver, StationInternalServer)
        account = self.iserver.accounts.present(self.user.account) if isinstance(self.user, StationUser) else None
        token = caller.set(account)
        try:
            return await super().call(params)
        finally:
            caller.reset(token)


class StationInternalServer(InternalServer):
    """The internal server of asyncua, which creates a `StationSession` for each client.

    Args:
        accounts: Object whose `get_user` checks name and password.
        allowed_peer: See `AllowedPeer`.
    """

    def __init__(self, accounts: Accounts, allowed_peer: AllowedPeer) -> None:
        super().__init__(user_manager=accounts)  # type: ignore[arg-type]
        self.accounts = accounts
        self.allowed_peer = allowed_peer
        self.allow_remote_admin = False
        self.supported_tokens = (ua.UserNameIdentityToken,)  # type: ignore[assignment]
        self.max_connections = LARGEST_NUMBER_OF_CONNECTIONS
        self.max_subscriptions = 2 * LARGEST_NUMBER_OF_CONNECTIONS
        self.max_monitored_item_queue_size = 1000
        self.max_unacked_messages_per_subscription = 1000

    def create_session(self, name: str, user: User = _NOBODY, external: bool = False) -> InternalSession:
        """Return a new session of a client."""
        return StationSession(self, self.aspace, self.subscription_service, name, user=user, external=external)

    def lookup_external_session(self, auth_token: ua.NodeId) -> None:
        """Return None, so a session stays on its channel. A client that lost its connection creates a new session."""

    def register_server(self, server: Any, conf: Any = None) -> NoReturn:
        """Refuse: a station is no discovery server."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)

    def register_server2(self, params: Any) -> NoReturn:
        """Refuse: a station is no discovery server."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
