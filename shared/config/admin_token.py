"""The bearer token of the admin endpoints: where it comes from, for the node and for the commands that ask it."""

from __future__ import annotations

import re
from pathlib import Path

from aperture.errors import ConfigurationError

__all__ = ["admin_token"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,1024}")
"""What RFC 6750 lets follow the word `Bearer`."""


def admin_token(token: str | None, file: str | None) -> str | None:
    """The token that was given, or that stands in a file; None if neither is.

    Args:
        token: itself.
        file: path of a file that holds it, with blanks around it or none.

    Raises:
        ConfigurationError: the file cannot be read, or this is no token. The text never quotes it.
    """
    if file:
        try:
            token = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            reason = getattr(problem, "strerror", None) or "it is not text"
            raise ConfigurationError(f"--admin-token-file {file}: {reason}") from None
        if not token.strip():
            raise ConfigurationError(f"--admin-token-file {file}: it is empty")
    if not token:
        return None
    if _TOKEN.fullmatch(token.strip()) is None:
        raise ConfigurationError("an admin token takes letters, digits and -._~+/=, 1024 of them at most")
    return token.strip()
