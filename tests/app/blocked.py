"""Commands where no socket leads to another machine: `python -m tests.app.blocked WORDS`, once per command.

What was tried is written to stderr, after "REPORTS HOME".
"""

import socket
import sys

LOCAL = ("127.", "::1", "localhost", "0.0.0.0")

getaddrinfo = socket.getaddrinfo


def refuse(address):
    print("REPORTS HOME:", address, file=sys.stderr, flush=True)
    raise OSError("blocked")


def is_local(host):
    host = host.decode() if isinstance(host, bytes) else str(host)
    return host in ("", "None") or host.startswith(LOCAL)


def guarded(method):
    def call(self, *arguments):
        # connect(address), connect_ex(address), sendto(data, address) and sendto(data, flags, address)
        if self.family != socket.AF_UNIX and not is_local(arguments[-1][0]):
            refuse(arguments[-1])
        return method(self, *arguments)

    return call


def guarded_getaddrinfo(host, *arguments, **options):
    return getaddrinfo(host, *arguments, **options) if is_local(host) else refuse(host)


def block():
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    socket.getaddrinfo = guarded_getaddrinfo


if __name__ == "__main__":
    block()
    from ditifeat.app.cli import main

    for words in sys.argv[1:]:
        if main(words.split()):
            sys.exit(f"failed: {words}")
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY
