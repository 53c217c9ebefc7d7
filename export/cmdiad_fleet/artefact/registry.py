"""Read from and write to a repository of an OCI registry, through `oras`.

`oras` provides the form of the requests, credentials of docker's configuration with their helpers, a session without
cookies, and uploads. `HardenedRegistry` replaces its transport: `oras` waits without limit, retries every failure for
minutes, reads a whole file into memory before an upload, and sends a password to any host that the registry names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3
from oras.auth.utils import get_basic_auth, parse_auth_header
from oras.container import Container
from oras.provider import Registry
from oras.utils import append_url_params

from cmdiad_fleet.artefact.artefact import IMAGE_MANIFEST, Blob, digest_of
from cmdiad_fleet.artefact.place import PASSWORD, TOKEN, USER, Access, RegistryError
from cmdiad_fleet.artefact.reference import Reference, is_loopback_registry
from cmdiad_runtime.bundle.integrity import MANIFEST_LIMIT

TIMEOUT_S = (10.0, 60.0)
"""Longest time to connect, and to wait for the next bytes."""
_TOKEN_LIMIT = 1 << 20  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_TEMPORARY = (408, 429, 500, 502, 503, 504)
Result = TypeVar("Result")


class HardenedRegistry(Registry):
    """An `oras` registry with time limits, TLS, and credentials that reach the registry only.

    Args:
        host: Host of the registry with its port.
        access: Choices for the connection.
    """

    def __init__(self, host: str, access: Access) -> None:
        plain = access.plain_http or (is_loopback_registry(host) and access.ca_file is None)
        super().__init__(hostname=host, insecure=plain, tls_verify=str(access.ca_file) if access.ca_file else True)
        # A proxy would receive the credentials for a registry of this machine as plain text.
        self.session.trust_env = not (plain and is_loopback_registry(host))
        self.session.auth = lambda request: request  # Without this, `requests` sends passwords of ~/.netrc.
        # `_send` follows redirects. `requests` would read the whole body of a redirect, however long, before the next.
        self.session.get_redirect_target = lambda response: None
        self.host = host
        self._access = access
        self._origin = _origin(f"{self.prefix}://{host}")
        token = access.environment.get(TOKEN, "")
        self._authorization = f"Bearer {token}" if token else ""

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
    ) -> requests.Response:
        """Send a request, and once more with credentials if the registry asks for them. The body is not read yet.

        Raises:
            RegistryError: The registry cannot be reached or verified, refuses the credentials, or leads elsewhere.
        """
        assert json is None, "bytes of a manifest must not depend on a JSON writer"
        response = self._send(url, method, data, headers or {})
        if response.status_code != 401:
            return response
        with response:
            self._authorization = self._answer(response.headers.get("Www-Authenticate", ""))
        if hasattr(data, "seek"):
            data.seek(0)
        response = self._send(url, method, data, headers or {})
        if response.status_code == 401:
            response.close()
            raise self._denied("credentials that the registry refuses")
        return response

    def put_upload(self, blob: BinaryIO | bytes, container: Container, layer: dict[str, Any]) -> requests.Response:
        """Upload a blob as a stream in one request, the way that every registry supports.

        Raises:
            RegistryError: See `do_request`; or the registry opens no upload.
        """
        with self.do_request(
            f"{self.prefix}://{container.upload_blob_url()}", "POST", headers={"Content-Length": "0"}
        ) as r:
            self.require(r, 202)
            location = self._get_location(r, container)
        if not location:
            raise self.error("an answer without the place of the upload", "an upload", temporary=False)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(layer["size"])}
        return self.do_request(append_url_params(location, {"digest": layer["digest"]}), "PUT", blob, headers)

    def require(self, response: requests.Response, *allowed: int) -> None:
        """Raise RegistryError unless the registry answered with one of these statuses."""
        status = response.status_code
        if status in allowed:
            return
        if status == 403:
            raise self._denied("credentials without the permission")
        if status == 404:
            raise RegistryError(
                self.host,
                found="no such artefact, repository or blob",
                expected="an artefact that was published",
                action="check the name and the tag, and whether you may read the repository",
            )
        raise self.error(f"status {status}", f"status {allowed[0]}", temporary=status in _TEMPORARY)

    def error(self, problem: str, expected: str, *, temporary: bool) -> RegistryError:
        """Return the error for an answer that does not fit the protocol."""
        return RegistryError(
            self.host,
            found=problem,
            expected=expected,
            action="run the command again, or use a --mirror",
            temporary=temporary,
        )

    def _send(self, url: str, method: str, data: Any, headers: Mapping[str, str]) -> requests.Response:
        """Send one request and follow redirects. Only the registry itself receives the credentials."""
        for _ in range(_MOST_REDIRECTS + 1):
            self._check_scheme(url)
            sent = {**headers, "Accept-Encoding": "identity"}
            if self._authorization and _origin(url) == self._origin:
                sent["Authorization"] = self._authorization
            response = self._exchange(method, url, data, sent)
            if response.status_code not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            response.close()
            url = _joined(url, response.headers.get("Location", ""))
        raise self.error(f"more than {_MOST_REDIRECTS} redirects", "an answer", temporary=False)

    def _exchange(self, method: str, url: str, data: Any, headers: Mapping[str, str]) -> requests.Response:
        with _transfer(self.host):
            return self.session.request(
                method,
                url,
                data=data,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=TIMEOUT_S,
                verify=self._tls_verify,
            )

    def _check_scheme(self, url: str) -> None:
        """Refuse an address without TLS, unless both the registry and the host of the address may use plain HTTP."""
        scheme, host, _ = _origin(url)
        plain = scheme == "http" and self.prefix == "http" and (self._access.plain_http or is_loopback_registry(host))
        if not host or not (scheme == "https" or plain):
            raise self.error(f"a redirect to {url:.200}", "a place with TLS", temporary=False)

    def _answer(self, challenge: str) -> str:
        """Return the header that answers the request of a registry for credentials.

        Raises:
            RegistryError: There are no credentials, or they would leave the registry.
        """
        basic = self._credentials()
        if self._access.environment.get(TOKEN) or not challenge:
            raise self._denied("credentials that the registry refuses")
        if challenge.lower().startswith("basic"):
            if not basic:
                raise self._denied("no credentials")
            return f"Basic {basic}"
        return f"Bearer {self._token(parse_auth_header(challenge), basic)}"

    def _credentials(self) -> str:
        """Return user and password in the form of a header, or "": the environment, then docker's configuration."""
        user, password = (self._access.environment.get(name, "") for name in (USER, PASSWORD))
        if user and password:
            return str(get_basic_auth(user, password))
        folder = self._access.environment.get("DOCKER_CONFIG")
        path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
        try:
            config = json.loads(path.read_bytes()) if path.is_file() else {}
            # Set here, because `oras` ignores DOCKER_CONFIG and merges several files in any order.
            self.auth._auth_config = {"auths": {}, **config}
            self.auth.load_configs(Container("repository", registry=self.host))
        except (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise self._denied("a configuration of docker that cannot be used") from error
        return str(getattr(self.auth, "_basic_auth", "") or "")

    def _token(self, challenge: Any, basic: str) -> str:
        """Exchange the credentials, or none, for a token of the service that the registry names."""
        realm = challenge.realm or ""
        self._check_scheme(realm)
        origin = _origin(realm)
        if basic and origin != self._origin and origin != _origin(f"https://{self._access.auth_host}"):
            raise RegistryError(
                self.host,
                found=f"a request to send the credentials to {urlsplit(realm).netloc:.200}",
                expected="credentials that stay with the registry",
                action="if that host belongs to the registry, pass it with --auth-host",
            )
        query = urlencode({k: v for k, v in (("service", challenge.service), ("scope", challenge.scope)) if v})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        with self._exchange("GET", url, None, {"Authorization": f"Basic {basic}"} if basic else {}) as response:
            if response.status_code != 200:
                raise self._denied("credentials that the token service refuses" if basic else "no credentials")
            try:
                content = json.loads(read_limited(response, _TOKEN_LIMIT, self.host))
                token = content.get("token") or content["access_token"]
            except (ValueError, KeyError, AttributeError) as error:
                raise self.error(
                    "an answer of the token service without a token", "a token", temporary=False
                ) from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self.error("a token that is no text", "a token", temporary=False)
        return token

    def _denied(self, problem: str) -> RegistryError:
        return RegistryError(
            self.host,
            found=problem,
            expected="credentials that may use the repository",
            action=f"set {USER} and {PASSWORD}, or {TOKEN}, or run docker login",
        )


class RegistryPlace:
    """Implementation of `WritablePlace` for a repository of a registry.

    Args:
        reference: Name of the repository.
        access: Choices for the connection.
    """

    def __init__(self, reference: Reference, access: Access) -> None:
        self.name = reference.place
        self._registry = HardenedRegistry(reference.registry, access)
        self._container = Container(self.name)
        self._base = f"{self._registry.prefix}://{reference.registry}/v2/{reference.repository}"
        self._access = access

    def manifest(self, reference: Reference) -> bytes:
        """Return a manifest; see `Place`."""

        def receive() -> bytes:
            url = f"{self._base}/manifests/{reference.digest or reference.tag}"
            with self._registry.do_request(url, headers={"Accept": IMAGE_MANIFEST}) as response:
                self._registry.require(response, 200)
                return read_limited(response, MANIFEST_LIMIT, self.name)

        return with_retries(receive, self._access)

    @contextmanager
    def blob(self, blob: Blob, start: int) -> Iterator[tuple[int, _Body]]:
        """Open a blob from a position; see `Place`."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._registry.do_request(f"{self._base}/blobs/{blob.digest}", headers=headers) as response:
            self._registry.require(response, 200, 206)
            position = start if response.status_code == 206 else 0
            self._check_extent(response, blob, position)
            yield position, _Body(response, self.name)

    def put_blob(self, blob: Blob, content: Path | bytes) -> bool:
        """Upload a blob unless the registry has it; see `WritablePlace`."""

        def send() -> bool:
            with self._registry.do_request(f"{self._base}/blobs/{blob.digest}", "HEAD") as response:
                if response.status_code == 200:
                    return False
            if isinstance(content, bytes):
                self._upload(blob, content)
            else:
                with content.open("rb") as file:
                    self._upload(blob, file)
            return True

        return with_retries(send, self._access)

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Upload a manifest, and check that the registry has the same bytes; see `WritablePlace`."""
        digest = digest_of(content)

        def send() -> None:
            url = f"{self._base}/manifests/{tag or digest}"
            with self._registry.do_request(url, "PUT", content, {"Content-Type": IMAGE_MANIFEST}) as response:
                self._registry.require(response, 201)

        with_retries(send, self._access)
        if self.manifest(Reference(digest=digest)) != content:
            raise self._registry.error("another manifest than the one that was sent", digest, temporary=False)

    def close(self) -> None:
        """Close the connections."""
        self._registry.session.close()

    def _upload(self, blob: Blob, content: BinaryIO | bytes) -> None:
        layer = {"digest": blob.digest, "size": blob.bytes}
        with self._registry.put_upload(content, self._container, layer) as response:
            self._registry.require(response, 201)

    def _check_extent(self, response: requests.Response, blob: Blob, start: int) -> None:
        """Refuse an answer that announces other bytes than the requested ones."""
        length = response.headers.get("Content-Length")
        if length is not None and length != str(blob.bytes - start):
            raise self._registry.error(f"{length:.20} bytes of {blob.title}", f"{blob.bytes - start}", temporary=False)
        extent = response.headers.get("Content-Range", "")
        if response.status_code == 206 and extent != f"bytes {start}-{blob.bytes - 1}/{blob.bytes}":
            raise self._registry.error(f"the range {extent!r:.60}", f"bytes from {start} on", temporary=False)


class _Body:
    """Implementation of `Content` for the body of an HTTP response, which is not decoded."""

    def __init__(self, response: requests.Response, name: str) -> None:
        self._raw = response.raw
        self._name = name

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, as sent; see `Content`."""
        with _transfer(self._name):
            return bytes(self._raw.read(size, decode_content=False))


def read_limited(response: requests.Response, limit: int, name: str) -> bytes:
    """Return the body of an answer.

    Raises:
        RegistryError: The body is longer than the limit, or the transfer breaks off.
    """
    body, content = _Body(response, name), b""
    while block := body.read(1 << 16):
        content += block
        if len(content) > limit:
            raise RegistryError(
                name,
                found=f"more than {limit} bytes",
                expected="a shorter answer",
                action="check who owns the registry",
            )
    return content


def with_retries(action: Callable[[], Result], access: Access) -> Result:
    """Return the result of an action; a failure that may pass is tried again after a growing pause."""
    for attempt in range(access.attempts):
        try:
            return action()
        except RegistryError as error:
            if not error.temporary or attempt + 1 == access.attempts:
                raise
            access.pause(attempt + 1, error)
    raise AssertionError("at least one attempt")


@contextmanager
def _transfer(name: str) -> Iterator[None]:
    """Turn failures of a connection into RegistryError. Their texts contain addresses, so they are not shown."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        problem, temporary = _problem_of(error)
        raise RegistryError(
            name,
            found=problem,
            expected="a registry that answers",
            action="check name, network and --ca-file, or use a --mirror",
            temporary=temporary,
        ) from error


def _problem_of(error: Exception) -> tuple[str, bool]:
    """Return a failure as text, and True if it may pass."""
    if isinstance(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
        return "a TLS connection that cannot be verified", False
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time", True
    if isinstance(error, (requests.ConnectionError, urllib3.exceptions.ProtocolError)):
        return "no connection, or one that broke off", True
    return f"a request that failed ({type(error).__name__})", False


def _joined(url: str, location: str) -> str:
    """Return the address that a redirect leads to, or the text itself if that is no address."""
    try:
        return urljoin(url, location)
    except ValueError:
        return location


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of an address, empty for a text that is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", "", None
    return parts.scheme, parts.hostname or "", port
