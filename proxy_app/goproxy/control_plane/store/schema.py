"""The tables, as this version of goproxy wants them. `migrations` brings every older store here; a test compares.

Amounts are whole nano-dollars. Times are RFC 3339 in UTC with milliseconds, as text: they sort, and both databases
keep them as they came. Lists and objects are JSON in a text column: nothing is ever searched for in them. Text is
ordered by its code points in both databases, whatever language PostgreSQL was set up for.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, Table, Text, text

_TEXT = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("note", _TEXT, nullable=False),
    Column("origin", _TEXT, nullable=False),  # declared, or operator
    Column("created_at", _TEXT, nullable=False),
    Column("disabled_at", _TEXT),
    Column("disabled_by", _TEXT),  # declaration, or operator
)

keys = Table(
    "api_keys",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("account", _TEXT, ForeignKey("accounts.name"), nullable=False, index=True),
    Column("name", _TEXT, nullable=False),
    Column("prefix", _TEXT, nullable=False),  # its first characters, by which people tell keys apart
    Column("sha256", _TEXT, nullable=False, unique=True),  # of the key, which is not kept
    Column("origin", _TEXT, nullable=False),
    Column("created_at", _TEXT, nullable=False),
    Column("expires_at", _TEXT),
    Column("revoked_at", _TEXT),
    Column("revoked_by", _TEXT),
    Column("rotated_from", _TEXT),
    Column("upstreams", _TEXT),  # a list; NULL: all
    Column("models", _TEXT),  # a list; NULL: all
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("limit_nanodollars", BigInteger),  # in all, of the wallet key:<id>
    Column("served_upstreams", _TEXT),  # a list of those that it was ever for, whose rows are taken; NULL: all
)

wallets = Table(
    "wallets",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("account", _TEXT, nullable=False, index=True),  # no foreign key: a row is kept whoever it names
    Column("key_id", _TEXT),
    Column("credits", BigInteger, nullable=False),  # the sum of its entries
    Column("behind", BigInteger, nullable=False, server_default=text("0")),  # what a limit does not count (see `limit`)
    Column("created_at", _TEXT, nullable=False),
)

renewals = Table(
    "renewals",
    metadata,
    Column("wallet", _TEXT, ForeignKey("wallets.id"), primary_key=True),
    Column("period", _TEXT, nullable=False),  # day, week or month
    Column("amount", BigInteger, nullable=False),  # that it has again when one begins
    Column("next_at", _TEXT, nullable=False, index=True),  # when that is
)

credit_entries = Table(
    "credits",
    metadata,
    Column("id", _TEXT, primary_key=True),  # the idempotency key
    Column("wallet", _TEXT, ForeignKey("wallets.id"), nullable=False, index=True),
    Column("account", _TEXT, nullable=False),
    Column("kind", _TEXT, nullable=False),
    Column("amount", BigInteger, nullable=False),  # below 0: taken
    Column("note", _TEXT, nullable=False),
    Column("row_id", _TEXT),  # the request whose price was corrected
    Column("received_at", _TEXT, nullable=False),
    Index("ix_credits_received_at_id", "received_at", "id"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("upstream", _TEXT, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # of the last call for leases
    Column("last_seen", _TEXT, nullable=False),
    Column("retired_at", _TEXT),
)

leases = Table(
    "leases",
    metadata,
    Column("wallet", _TEXT, ForeignKey("wallets.id"), primary_key=True),
    Column("instance", _TEXT, ForeignKey("instances.id"), primary_key=True),
    Column("granted_total", BigInteger, nullable=False),
    Column("spent_total", BigInteger, nullable=False),
    Column("updated_at", _TEXT, nullable=False),
)

rows = Table(
    "ledger_rows",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("instance", _TEXT, ForeignKey("instances.id"), nullable=False),
    Column("received_at", _TEXT, nullable=False),  # by this store
    Column("day", _TEXT, nullable=False),  # whose prices hold and whose usage it is
    Column("account", _TEXT, nullable=False),
    Column("key_id", _TEXT, nullable=False),
    Column("wallets", _TEXT, nullable=False),
    Column("upstream", _TEXT, nullable=False),
    Column("endpoint", _TEXT, nullable=False),
    Column("protocol", _TEXT, nullable=False),
    Column("model", _TEXT, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("opened_at", _TEXT, nullable=False),
    Column("settled_at", _TEXT, nullable=False),
    Column("settlement", _TEXT, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", _TEXT, nullable=False),
    Column("hold_nanodollars", BigInteger, nullable=False),
    Column("estimated_input_tokens", BigInteger, nullable=False),
    Column("terms", _TEXT, nullable=False, server_default=text("''")),
    Column("input", BigInteger, nullable=False),
    Column("cache_write_5m", BigInteger, nullable=False),
    Column("cache_write_1h", BigInteger, nullable=False),
    Column("cache_read", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("web_search", BigInteger, nullable=False, server_default=text("0")),
    Column("raw_usage", _TEXT),
    Column("flags", _TEXT, nullable=False),
    Column("price_version", _TEXT, nullable=False),
    Column("prices", _TEXT, nullable=False),
    Column("tier_up_to", BigInteger),
    Column("multiplier", _TEXT, nullable=False),
    Column("cost_nanodollars", BigInteger, nullable=False),  # as it was settled
    Column("adjustment_nanodollars", BigInteger, nullable=False),  # by rerating: what it costs is the sum of both
    Column("adjusted_multiplier", _TEXT),  # of the last correction, which the next one keeps
    Column("received_bytes", BigInteger, nullable=False),
    Column("answered_bytes", BigInteger, nullable=False),
    Column("upstream_request_id", _TEXT),
    Column("upstream_model", _TEXT),
    Index("ix_ledger_rows_received_at_id", "received_at", "id"),
    Index("ix_ledger_rows_day_id", "day", "id"),  # these three are for `walk`
    Index("ix_ledger_rows_account_day_id", "account", "day", "id"),
    Index("ix_ledger_rows_upstream_day_id", "upstream", "day", "id"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
