"""Connections to public hosts: each address is looked at when it is connected to.

A list of addresses comes from anywhere, and must not make this machine ask its own network. A name
is resolved once for each connection and what it resolves to is both judged and used, so that no
second answer of a name server slips through, nor a redirect.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.web import policy

_HOSTS = 1000  # whose connections are kept
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateHostError(Exception):
    """An address of this machine or its networks. No OSError: urllib3 would try again."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _NAT64:  # how networks without IPv4 reach it
            inner = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return bool(ip.is_global and not ip.is_multicast and not ip.is_reserved)


def _check(host: str, addresses: list[str]) -> None:
    hidden = [address for address in addresses if not is_public(address)]
    if hidden and not policy.current().allow_private_hosts:
        raise PrivateHostError(
            f"{host} is {hidden[0]}, an address of a private network; --allow-private-hosts reads"
            " it nevertheless"
        )


class _Public:
    """What both kinds of connection do instead of resolving and connecting at once."""

    def _new_conn(self: Any) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(self.host, self, reason) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        _check(self.host, addresses)
        failed: Exception | None = None
        for address in addresses:
            try:
                return urllib3.util.connection.create_connection(
                    (address, self.port), self.timeout, source_address=self.source_address,
                    socket_options=self.socket_options,
                )  # fmt: skip
            except TimeoutError:
                failed = ConnectTimeoutError(self, f"{self.host} did not answer")
            except OSError as error:
                failed = NewConnectionError(self, f"{self.host}: {error.strerror or error}")
        raise failed or NewConnectionError(self, f"{self.host} has no address")


class _PublicHTTP(_Public, HTTPConnection):
    pass


class _PublicHTTPS(_Public, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPS


@functools.cache
def _pools(process: int, connections: int, proxy: str) -> urllib3.PoolManager:
    connect, silent = protocol.TIMEOUT
    settings: dict[str, Any] = {
        "num_pools": _HOSTS,
        "maxsize": connections,
        "block": True,  # the limit of connections to one host
        "timeout": urllib3.Timeout(connect=connect, read=silent),
        "retries": False,
    }
    if proxy:
        return urllib3.ProxyManager(proxy, **settings)
    pools = urllib3.PoolManager(**settings)
    pools.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pools


def open_address(method: str, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
    """Sends one request; the body is read by the caller. Redirects are not followed.

    Raises PrivateHostError, or urllib3's HTTPError.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = _proxy_for(parts.scheme, parts.netloc.rpartition("@")[2])
    if proxy:  # which resolves the name: what can be judged here is
        _check(host, _known_addresses(host))
    pools = _pools(os.getpid(), policy.current().host_connections, proxy)
    return pools.request(
        method, url, headers=headers, redirect=False, preload_content=False, decode_content=False
    )


def _proxy_for(scheme: str, host: str) -> str:
    """The proxy that the environment names for a host; "": none."""
    name = f"{scheme}_proxy"
    proxy = os.environ.get(name, os.environ.get(name.upper(), ""))  # as urllib, which reads all
    return "" if not proxy or urllib.request.proxy_bypass(host) else proxy


def _known_addresses(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host.strip("[]")))]
    except ValueError:
        pass
    try:
        return list({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError):
        return []
