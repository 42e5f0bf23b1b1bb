"""What pip's last words mean, and what can be done about it: one message for each way to fail."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .i18n import _

__all__ = ["explain"]

_SIGNS = {
    "certificate": ("CERTIFICATE_VERIFY_FAILED", "SSLCertVerificationError", "SSLError"),
    "proxy": ("ProxyError", "407 Proxy", "Tunnel connection failed"),
    "network": (
        *("NewConnectionError", "Failed to establish a new connection", "Temporary failure in name resolution"),
        *("getaddrinfo failed", "nodename nor servname", "ConnectTimeoutError", "Read timed out", "ReadTimeoutError"),
        *("Max retries exceeded", "Connection reset by peer", "ConnectionResetError", "Network is unreachable"),
        *("Connection refused", "HTTP error 404", "404 Client Error"),
    ),
    "disk": ("No space left on device", "Errno 28", "not enough space on the disk"),
    "rights": ("Permission denied", "Access is denied", "WinError 5", "WinError 32", "Read-only file system"),
    "conflict": ("ResolutionImpossible", "conflicting dependencies", "The user requested (constraint)"),
    "missing": ("No matching distribution found",),
}
"""What pip prints where something fails; looked for in this order, for a lost connection also finds no distribution."""


def explain(what: str, output: str, protected: Mapping[str, str] | None = None) -> str:
    """Why pip failed and what to do, in whole sentences.

    Args:
        what: what was to be installed.
        output: all that pip printed.
        protected: packages that must stay at their versions.
    """
    kind = next((kind for kind, signs in _SIGNS.items() if any(sign in output for sign in signs)), "other")
    package = re.search(r"No matching distribution found for ([^\s;()]+)", output)
    kept = ", ".join(f"{name} {version}" for name, version in (protected or {}).items()) or "-"
    reasons = {
        "certificate": _(
            "a certificate in the network was not accepted. Set PIP_CERT to the file of your institution's certificate "
            "before Slicer starts, or choose a folder of wheels in the section Installation."
        ),
        "proxy": _(
            "the proxy did not let pip through. Set HTTPS_PROXY=http://user:password@host:port before Slicer starts, "
            "or choose a folder of wheels in the section Installation."
        ),
        "network": _(
            "there is no connection to where the packages lie. Check the connection; behind a proxy, set HTTPS_PROXY "
            "before Slicer starts; without internet, choose a folder of wheels in the section Installation."
        ),
        "disk": _("the disk is full. Free some gigabytes and try again."),
        "rights": _(
            "Slicer's folder may not be written to, or a file in it is in use. Restart Slicer and try again; if Slicer "
            "belongs to an administrator, install it into your own folder, or let the administrator press Install."
        ),
        "conflict": _(
            "the packages do not fit those that Slicer brought along ({kept}), which are not replaced. "
            "Update Slicer to its newest stable version; the details name the package."
        ).format(kept=kept),
        "missing": _(
            "{package} was not found for this Python and system. In a folder of wheels, it is missing: get it with "
            "pip download as the README describes."
        ).format(package=package.group(1) if package else "-"),
        "other": _("pip said: {line}. The details and the log have the rest.").format(line=_last_error(output)),
    }
    return _("{what} could not be installed: {reason}").format(what=what, reason=reasons[kind])


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["-"])[-1].rstrip(".")
