"""A program that keeps a backend's store (SQLite), and says on standard output what is committed, when it is.

It imports all that it needs, says `ready`, and begins when something comes on standard input: until then strace can
be attached, and the system calls of the imports do not count.

    posting ID COST     accepted ID COST    a row is brought in; it may be forgotten by the proxy
    lent TOTAL                              the proxy is lent so much in all
    crediting ID        credited ID         a grant of 1000
"""

from __future__ import annotations

import os
import sys

from goproxy.control_plane.store import leases, rows, wallets
from goproxy.control_plane.store.database import Database
from tests.bookkeeping import a_hold, a_row

UPSTREAM = "openhands"
CREDIT = 1000


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    """store_child.py URL NAME ROUNDS LENT: `LENT` is the total that the proxy knows."""
    url, name, rounds, lent = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    database = Database(url)
    say("ready")
    sys.stdin.readline()
    for turn in range(rounds):
        grant = f"grant_{name}_{turn}"
        say("crediting", grant)
        database.transact("credit", lambda store: wallets.credit(store, grant, "alice", "grant", CREDIT))  # noqa: B023
        say("credited", grant)

        ask = leases.Ask("alice", lent, 500)
        sequence = int(name) * 1000 + turn
        granted = database.transact("lend", lambda store: leases.lend(store, "i", UPSTREAM, sequence, [ask]))  # noqa: B023
        lent = granted.grants[0].granted_total
        say("lent", lent)

        posted = [a_row(a_hold(f"req_{name}_{turn}_{n}", 100), 50 + n) for n in range(3)]
        for row in posted:
            say("posting", row.id, row.cost_nanodollars)
        for _ in range(2):  # the second time as if the first answer had been lost
            database.transact("post", lambda store: rows.ingest(store, "i", UPSTREAM, posted))  # noqa: B023
        for row in posted:
            say("accepted", row.id, row.cost_nanodollars)
    database.close()


if __name__ == "__main__":
    main()
