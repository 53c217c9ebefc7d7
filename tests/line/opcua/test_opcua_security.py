"""Who gets in: certificates, passwords, roles; and the gaps of asyncua 2.1 that the server closes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from asyncua import Client, ua

from cmdiad_line.accounts.store import FILE_NAME, AccountStore
from cmdiad_line.opcua.certificates import own_certificate
from cmdiad_line.opcua.result_data import types
from cmdiad_line.opcua.sign_in import FAILURES, WINDOW_S, SignIn
from cmdiad_line.transport.messages import Answer, Command, End
from opcua_station import (
    PASSWORD,
    Supervisor,
    client_certificate,
    plant,
    running_server,
    secured_client,
)
from patience import LIMIT_S
from station_messages import station_state

MODE = "VisionStateMachine/AutomaticModeStateMachine"


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server that trusts the certificate of one client."""
    folder = tmp_path_factory.mktemp("station")
    client_certificate(folder)
    (folder / "trusted").mkdir()
    shutil.copy(folder / "client" / "server.pem", folder / "trusted" / "plant.pem")
    with running_server(folder, 'trusted = "trusted"') as supervisor:
        supervisor.send(station_state())
        yield supervisor


@asynccontextmanager
async def unsecured_channel(supervisor: Supervisor):
    """Yield a client with a channel without security and without a session, as for discovery."""
    client = Client(f"opc.tcp://127.0.0.1:{supervisor.port}/cmdiad", timeout=LIMIT_S, watchdog_intervall=LIMIT_S)
    await client.connect_socket()
    try:
        await client.send_hello()
        await client.open_secure_channel()
        yield client
    finally:
        client.disconnect_socket()


def password_token(user: str, password: str) -> ua.ActivateSessionParameters:
    token = ua.UserNameIdentityToken(UserName=user, Password=password.encode(), PolicyId="username")
    return ua.ActivateSessionParameters(UserIdentityToken=token)


@pytest.mark.parametrize(
    ("user", "password"), [("eng-1", "four random words hera"), ("nobody", PASSWORD), ("eng-1", ""), ("", "")]
)
def test_wrong_password_is_refused(supervisor, user, password):
    async def scenario():
        client = await secured_client(supervisor, user, password)
        with pytest.raises((ua.UaStatusCodeError, ua.UaError)) as caught:
            async with client:
                pass
        assert any(
            name in repr(caught.value) for name in ("BadUserAccessDenied", "BadIdentityTokenRejected", "Anonymous")
        )

    asyncio.run(scenario())


def test_certificate_that_is_not_trusted_is_refused(supervisor, tmp_path):
    async def scenario():
        client = await secured_client(supervisor, "eng-1", folder=tmp_path)
        with pytest.raises(ua.uaerrors.BadCertificateUntrusted):
            async with client:
                pass

    asyncio.run(scenario())


def test_only_signed_and_encrypted_endpoints_are_offered(supervisor):
    async def scenario():
        async with unsecured_channel(supervisor) as client:
            endpoints = await client.get_endpoints()
        assert {endpoint.SecurityMode for endpoint in endpoints} == {ua.MessageSecurityMode.SignAndEncrypt}
        tokens = {token.TokenType for endpoint in endpoints for token in endpoint.UserIdentityTokens}
        assert tokens == {ua.UserTokenType.UserName}

    asyncio.run(scenario())


def test_password_on_an_unsecured_channel_is_refused(supervisor):
    """asyncua accepts it, although the server offers no such endpoint."""

    async def scenario():
        async with unsecured_channel(supervisor) as client:
            with suppress(ua.UaError):  # The client notices that no such endpoint is offered, after it has the session.
                await client.create_session()
            with pytest.raises(ua.uaerrors.BadSecurityModeInsufficient):
                await client.uaclient.activate_session(password_token("eng-1", PASSWORD))
            with pytest.raises(ua.uaerrors.BadSessionNotActivated):
                await client.nodes.server.read_browse_name()

    asyncio.run(scenario())


def test_session_of_another_client_cannot_be_taken_over(supervisor):
    """asyncua keeps the other session on a connection whose ActivateSession failed, and then serves it."""

    async def scenario():
        async with plant(supervisor) as victim, unsecured_channel(supervisor) as thief:
            token = victim.client.uaclient.session.authentication_token
            thief.uaclient.session.restore_authentication_token(token)
            with pytest.raises(ua.uaerrors.BadSessionIdInvalid):
                await thief.uaclient.activate_session(password_token("nobody", "wrong"))
            with pytest.raises((ua.uaerrors.BadUserAccessDenied, ua.uaerrors.BadSessionIdInvalid)):
                await thief.nodes.server.read_browse_name()
            assert (await victim.state()).startswith("Operational")

    asyncio.run(scenario())


def test_other_servers_cannot_be_registered(supervisor):
    async def scenario():
        async with unsecured_channel(supervisor) as client:
            other = ua.RegisteredServer(ServerUri="urn:other", ServerNames=[ua.LocalizedText("other")])
            with pytest.raises(ua.UaStatusCodeError):
                await client.uaclient.register_server(other)
            assert {server.ApplicationUri for server in await client.find_servers()} != {"urn:other"}
            assert len(await client.find_servers()) == 1

    asyncio.run(scenario())


def test_operator_may_not_change_recipes(supervisor):
    async def scenario():
        async with plant(supervisor, "ope-1") as client:
            await client.wait_for_state("Operational/Ready")
            extension = ua.VariantType.ExtensionObject
            recipe = ua.Variant(types.RecipeIdExternalDataType(Id="nut"), extension)
            nothing = ua.Variant(None, extension)
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await client.call("RecipeManagement/PrepareRecipe", recipe, nothing)
            parameters = ua.Variant([], ua.VariantType.Variant, is_array=True)
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await client.call(f"{MODE}/StartSingleJob", nothing, nothing, recipe, nothing, parameters)
            halt = asyncio.ensure_future(
                client.call("VisionStateMachine/Halt", ua.Variant(0, ua.VariantType.Int32), "end of shift")
            )
            command = await supervisor.expect(Command)
            assert (command.name, command.user) == ("stop", "ope-1")
            supervisor.send(Answer(token=command.token, done=True, message=""))
            assert await halt == 0

    asyncio.run(scenario())


def test_account_that_is_disabled_can_call_nothing_more(supervisor):
    async def scenario():
        store = AccountStore(supervisor.folder / FILE_NAME)
        store.add("ope-2", "operator", PASSWORD, author="test")
        async with plant(supervisor, "ope-2") as client:
            release = "ResultManagement/ReleaseResultHandle"
            assert await client.call(release, ua.Variant(7, ua.VariantType.UInt32)) == -1
            store.set_disabled("ope-2", True, author="test")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await client.call(release, ua.Variant(7, ua.VariantType.UInt32))

    asyncio.run(scenario())


def test_nothing_can_be_written(supervisor):
    async def scenario():
        async with plant(supervisor) as client:
            node = await client.node("VisionStateMachine/CurrentState")
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await node.write_value(ua.LocalizedText("Operational"))
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await client.client.nodes.objects.add_folder(2, "mine")

    asyncio.run(scenario())


def test_unsecured_sessions_if_the_station_file_says_so_until_the_end(tmp_path):
    async def scenario(supervisor: Supervisor):
        client = Client(f"opc.tcp://127.0.0.1:{supervisor.port}/cmdiad", timeout=LIMIT_S, watchdog_intervall=LIMIT_S)
        client.set_user("eng-1")
        client.set_password(PASSWORD)
        async with client:
            assert (await client.nodes.server.read_browse_name()).Name == "Server"
        client.set_password("four random words hera")
        with pytest.raises(ua.uaerrors.BadUserAccessDenied):
            async with client:
                pass

    with running_server(tmp_path, 'encryption = "none"') as supervisor:
        asyncio.run(scenario(supervisor))
        supervisor.send(End())
        assert supervisor.process.wait(LIMIT_S) == 0


class StubStore(AccountStore):
    """Accounts that count the passwords they check, and know none."""

    def __init__(self) -> None:
        self.checked = 0

    def sign_in(self, name: str, password: str) -> None:
        self.checked += 1


def test_guesses_are_limited():
    clock = [0.0]
    store = StubStore()
    sign_in = SignIn(store, lambda: clock[0])
    for _ in range(100):
        assert sign_in.get_user(None, "eng-1", "guess") is None
    assert store.checked == FAILURES
    clock[0] = WINDOW_S
    assert sign_in.get_user(None, "eng-1", "guess") is None
    assert store.checked == FAILURES + 1


def test_certificate_is_created_once_and_its_key_is_private(tmp_path):
    first = own_certificate(tmp_path / "opcua", "cell 7", "0.0.0.0")
    assert (tmp_path / "opcua" / "server.key").stat().st_mode & 0o777 == 0o600
    assert own_certificate(tmp_path / "opcua", "cell 7", "0.0.0.0").certificate == first.certificate
    assert first.application_uri.endswith(":cmdiad:cell-7")
