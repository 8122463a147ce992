"""What a failed connection to the broker means, where it is TLS that failed: for the pool and for agents."""

from __future__ import annotations

import re
import ssl

_DEEPEST_CAUSE = 16
_VERIFY_FAILED = re.compile(r"certificate verify failed: ([^()]+)")
_BROKEN_LINE = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)


def tls_problem(error: BaseException | None) -> str:
    """Why TLS with the broker failed, of an error or of what it came from; empty where that was not it.

    Only ours to mend: a line that broke while TLS began is the network's.
    """
    seen = 0
    while error is not None and seen < _DEEPEST_CAUSE:
        if found := _VERIFY_FAILED.search(str(error)):
            # Of sentinels only the words are left.
            return found[1].strip()
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message or str(error)
        if isinstance(error, ssl.SSLError) and not isinstance(error, _BROKEN_LINE):
            return error.reason or str(error)
        error, seen = error.__cause__ or error.__context__, seen + 1
    return ""


def not_trusted_words(place: str, reason: str) -> str:
    return (
        f"no connection to the broker at {place}: TLS fails ({reason}). The certificate must name the host "
        "of that address, and be of an authority that is trusted here: the pool's operator sets it with "
        "REDIS_CA_FILE (AGENT_REDIS_CA_FILE where agents have another address), a node's owner may set it "
        "with --broker-ca-file"
    )
