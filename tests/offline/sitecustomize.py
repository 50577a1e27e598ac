"""Sockets that refuse everything but this machine, in every Python process whose PYTHONPATH has this folder.

Python imports a module of this name at its start. What was refused is also written to the file that
CROSSFADE_REFUSED names, since some libraries swallow the error.
"""

import ipaddress
import os
import socket

_connect, _resolve = socket.socket.connect, socket.getaddrinfo


def _note(what: object) -> None:
    if name := os.environ.get("CROSSFADE_REFUSED"):
        with open(name, "a") as file:
            print(what, "in", os.environ.get("PYTEST_CURRENT_TEST", "no test"), file=file)


def _refuse(self: socket.socket, address: tuple) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
        _note(address)
        raise OSError(f"blocked: {address}")
    _connect(self, address)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unknown(host: str | bytes | None, *args: object, **kwargs: object) -> list:
    if host not in (None, "", "localhost", socket.gethostname()) and not _is_number(host):
        _note(host)
        raise socket.gaierror(-2, "Name or service not known")
    return _resolve(host, *args, **kwargs)


def _is_number(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True


socket.socket.connect, socket.getaddrinfo = _refuse, _unknown
