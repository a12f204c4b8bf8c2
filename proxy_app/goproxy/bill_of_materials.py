"""What an image is made of, as CycloneDX: the installed Python packages, and those of Debian.

It is read from the image that runs it, and so is what is in there, not what was meant to be. Another image's Debian
packages (the edge has no Python) are read from its own list of them, /var/lib/dpkg/status.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any
from urllib.parse import quote

from goproxy import __version__

SPEC_VERSION = "1.6"


class InvalidPackageList(Exception):
    """This is no list of dpkg's."""


def bill(name: str, version: str, components: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The document. The same content makes the same document: there is no time in it."""
    listed = sorted({each["bom-ref"]: each for each in components}.values(), key=lambda each: str(each["bom-ref"]))
    content = hashlib.sha256("\n".join([name, version, *(each["bom-ref"] for each in listed)]).encode()).hexdigest()
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": name, "version": version},
            "tools": {"components": [{"type": "application", "name": "goproxy", "version": __version__}]},
        },
        "components": listed,
    }


def python_packages() -> Iterator[dict[str, Any]]:
    """Those of the Python that runs this."""
    for each in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower()
        yield _component(name, each.version, f"pkg:pypi/{quote(name)}@{quote(each.version)}")


def debian_packages(status: str) -> Iterator[dict[str, Any]]:
    """Those that dpkg's list says are installed.

    Raises:
        InvalidPackageList: one has no name, version or architecture.
    """
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            try:
                name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
            except KeyError as missing:
                raise InvalidPackageList(f"a package that is installed has no {missing.args[0]}") from None
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='~:')}?arch={architecture}"
            yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
