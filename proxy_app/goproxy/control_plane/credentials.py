"""Who may call: the operator, and each upstream's proxy. Only digests of their tokens are here.

The files are looked at with every call, so that a new token holds at once. A file that is broken leaves its last good
digest standing; one that is gone takes it away. All comparisons take the same time, whatever the token is.

A proxy's former token goes on being good for as long as this process runs: while tokens are replaced, proxies of before
and of after it are both at work, and what replaces them replaces the backend at the end. The operator's ends at once.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from goproxy.observe import log
from goproxy.watched_file import WatchedFile

_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_NOTHING = hashlib.sha256(b"").hexdigest()


class TokenFile:
    """The digest of one token: 64 hexadecimal digits, SHA-256."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path)
        self._digest: str | None = None
        self._problem: str | None = None

    def digest(self) -> str | None:
        """The digest as it stands now; None: there is none."""
        try:
            content = self._file.changed()
        except FileNotFoundError:
            self._file = WatchedFile(self._file.path)
            self._digest = None
            return None
        except OSError as error:
            self._is_broken(f"cannot be read: {error.strerror}")
            return self._digest
        if content is None:
            return self._digest
        text = content.decode("ascii", "replace").strip()
        if text == _OF_NOTHING:
            self._is_broken("is the SHA-256 of an empty token, which nobody has")
        elif _DIGEST.fullmatch(text):
            self._digest, self._problem = text, None
        else:
            self._is_broken("must be 64 lower-case hexadecimal digits: the SHA-256 of the token")
        return self._digest

    def _is_broken(self, problem: str) -> None:
        if problem != self._problem:
            log("token file is broken", level=logging.ERROR, path=str(self._file.path), problem=problem)
        self._problem = problem


class ProxyTokens:
    """A directory with a file for each upstream, of its name: the digest of the token of its proxies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, TokenFile] = {}
        self._good: dict[str, frozenset[str]] = {}
        self.digests()  # one that is replaced before anybody came with it was good, too

    def digests(self) -> dict[str, str]:
        """By digest, the upstream whose proxies have the token."""
        try:
            names = {path.name for path in self._directory.iterdir() if not path.name.startswith(".")}
        except OSError:
            names = set()
        self._files = {name: self._files.get(name) or TokenFile(self._directory / name) for name in sorted(names)}
        now = {name: file.digest() for name, file in self._files.items()}
        self._good = {
            name: self._good.get(name, frozenset()) | {digest} for name, digest in now.items() if digest is not None
        }
        return {digest: name for name, digests in self._good.items() for digest in digests}


def owner(token: str, digests: Mapping[str, str]) -> str | None:
    """Whose token this is, if it is anybody's. `digests`: by digest, whose."""
    presented = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for digest, name in digests.items():
        if hmac.compare_digest(digest, presented):
            found = name
    return found
