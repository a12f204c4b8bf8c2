"""Which keys are live: let in by the proxies, and the only ones whose limits renew."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, or_

from goproxy.control_plane.store.schema import accounts, keys
from goproxy.timestamps import now


def is_live() -> ColumnElement[bool]:
    """Of a key beside its account: neither is revoked, over or disabled."""
    return and_(
        keys.c.revoked_at.is_(None),
        accounts.c.disabled_at.is_(None),
        or_(keys.c.expires_at.is_(None), keys.c.expires_at > now()),
    )
