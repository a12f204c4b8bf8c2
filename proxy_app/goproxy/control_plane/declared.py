"""The accounts and keys that stand in the inventory, from keys.json, which the role writes:

    {"keys": [{"account": "alice", "prefix": "tg-AbCd1234", "sha256": "<64 hex digits>"}],
     "opening_credits": {"alice": 10000000000}}

What is in the file is made, what leaves it is taken back: keys are revoked, accounts that came from the file are
disabled. What an operator took back by the admin API stays so. An opening credit (nano-dollars) is granted once, and
its account may have no key here. A file that cannot be used changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, StringConstraints, ValidationError, model_validator
from sqlalchemy import Connection, update

from goproxy.control_plane.schemas import AccountName, Nanodollars
from goproxy.control_plane.store import accounts, keys, wallets
from goproxy.control_plane.store.refusals import Conflict
from goproxy.control_plane.store.schema import keys as key_table
from goproxy.observe import log
from goproxy.watched_file import WatchedFile

_BY_DECLARATION = "declaration"


class DeclaredKey(BaseModel):
    """A key, by its digest."""

    account: AccountName
    prefix: str = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Declaration(BaseModel):
    """All that is declared."""

    keys: list[DeclaredKey]
    opening_credits: dict[AccountName, Nanodollars] = {}

    @model_validator(mode="after")
    def _each_key_once(self) -> Declaration:
        if any(times > 1 for times in Counter(key.sha256 for key in self.keys).values()):
            raise ValueError("two entries have the same key")
        return self


class DeclaredFile:
    """keys.json, watched."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path)
        self.last: Declaration | None = None
        """What was declared when it could be read last."""
        self._is_taken_in = True
        self.problem: str | None = None
        """What is wrong with the file as it stands now."""

    def changed(self) -> Declaration | None:
        """What is declared, if that has changed and can be read."""
        try:
            content = self._file.changed()
            if content is None:
                return None
            declaration = Declaration.model_validate_json(content)
        except FileNotFoundError:
            return None  # nothing is declared here, or not yet
        except OSError as error:
            self._is_broken(f"cannot be read: {error.strerror}")
        except ValidationError as error:
            mistake = error.errors(include_url=False, include_context=False, include_input=False)[0]
            self._is_broken(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}")
        else:
            self.problem = None
            if declaration != self.last or not self._is_taken_in:
                self.last, self._is_taken_in = declaration, True
                return declaration
        return None

    def read_again(self) -> None:
        """Let `changed` give what is there, for it could not be taken in."""
        self._file, self._is_taken_in = WatchedFile(self._file.path), False

    def _is_broken(self, problem: str) -> None:
        path = str(self._file.path)
        if f"{path}: {problem}" != self.problem:
            log("declared keys cannot be read; nothing is changed", level=logging.ERROR, path=path, problem=problem)
        self.problem = f"{path}: {problem}"


def apply(connection: Connection, declaration: Declaration) -> keys.Snapshot | None:
    """Bring the store to what is declared; the live keys, if anything about them has changed."""
    wanted = {key.account for key in declaration.keys} | declaration.opening_credits.keys()
    changes = _apply_accounts(connection, wanted) + _apply_keys(connection, declaration.keys)
    for account, amount in declaration.opening_credits.items():
        try:
            wallets.credit(connection, f"opening:{account}", account, "opening", amount)
        except Conflict:
            log("an opening credit is granted once; its change is passed over", account=account)
    if not changes:
        return None
    log("declared keys taken in", keys=len(declaration.keys), changes=changes)
    return keys.changed(connection)


def _apply_accounts(connection: Connection, wanted: set[str]) -> int:
    changes = 0
    known = {account["name"]: account for account in accounts.all_of_them(connection)}
    for name in sorted(wanted - known.keys()):
        accounts.create(connection, name, origin=accounts.DECLARED)
        changes += 1
    for name, account in known.items():
        if name in wanted and account["disabled_by"] == _BY_DECLARATION:
            accounts.enable(connection, name)
            changes += 1
        elif name not in wanted and account["origin"] == accounts.DECLARED and account["disabled_at"] is None:
            accounts.disable(connection, name, _BY_DECLARATION)
            changes += 1
    return changes


def _apply_keys(connection: Connection, declared: list[DeclaredKey]) -> int:
    changes = 0
    known = {key["sha256"]: key for key in keys.all_of_them(connection)}
    for entry in declared:
        key = known.pop(entry.sha256, None)
        if key is None:
            key_id = _id_of(entry.sha256)
            keys.create(connection, entry.account, entry.sha256, entry.prefix, key_id=key_id, origin=accounts.DECLARED)
            changes += 1
        elif (key["account"], key["origin"]) != (entry.account, accounts.DECLARED) or key[
            "revoked_by"
        ] == _BY_DECLARATION:
            # One that an operator made (by rotation, say) is the file's from now on, and ends when it leaves the file.
            changed: dict[str, str | None] = {"account": entry.account, "origin": accounts.DECLARED}
            if key["revoked_by"] == _BY_DECLARATION:
                changed |= {"revoked_at": None, "revoked_by": None}
            connection.execute(update(key_table).where(key_table.c.id == key["id"]).values(**changed))
            changes += 1
    for key in known.values():
        if key["origin"] == accounts.DECLARED and key["revoked_at"] is None:
            keys.revoke(connection, key["id"], _BY_DECLARATION)
            changes += 1
    return changes


def _id_of(sha256: str) -> str:
    """The same in every store that the key is declared in."""
    return f"key_{hashlib.sha256(f'declared {sha256}'.encode()).hexdigest()[:16]}"
