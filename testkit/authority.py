"""The testkit's certificate authority: one CA, and a server certificate for each simulated host name.

Usage: authority.py DIRECTORY NAME...  writes ca.pem, and NAME.pem / NAME.key for each name. What is there stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trustme


def main(directory: Path, names: list[str]) -> int:
    """Write the CA and the certificates; print "changed" if anything was written."""
    wanted = [directory / "ca.pem", *(directory / f"{name}.pem" for name in names)]
    if all(path.exists() for path in wanted):
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="trollllm.gateway testkit")
    for name in names:
        issued = authority.issue_cert(name, common_name=name)
        (directory / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        (directory / f"{name}.key").write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(directory / "ca.pem")  # last: its presence says that all is there
    print("changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
