"""When the certificate of a PostgreSQL server ends: libpq does not say, so the server is asked for it once more.

PostgreSQL documentation, "Message Formats", SSLRequest.
"""

from __future__ import annotations

import socket
import ssl
import struct

_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)
_LIMIT_S = 10.0


def ends_at(name: str, address: str, port: int) -> float | None:
    """Return when the certificate for `name` ends, in seconds since 1970; None: the server does not do TLS.

    It is only read: who the server is has been verified on the connection that carries data. Raises OSError.
    """
    with socket.create_connection((address, port), _LIMIT_S) as plain:
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(plain, server_hostname=name) as secured:
            shown = secured.getpeercert(binary_form=True)
    from cryptography import x509  # noqa: PLC0415 - asked for once in ten minutes, and 13 ms of each start

    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp() if shown else None
