"""Reads what an image is built from, so that one task ships it and its digest names the image."""

from __future__ import annotations

DOCUMENTATION = """
name: build_context
short_description: The files of an image's build context, and their digest
version_added: "0.1.0"
description:
  - Reads text files below a folder on the controller.
  - Returns them in the form that M(trollllm.gateway.file_tree) takes, and a digest over paths and contents.
  - A tag made of the digest is new when, and only when, something that goes into the image is new.
options:
  _terms:
    description: The folder.
    type: list
    elements: path
    required: true
  include:
    description: Patterns of the files below it, as in C(pathlib); C(**) is any depth.
    type: list
    elements: str
    default: ["**/*"]
  extra:
    description: More files, path to content, that are not below the folder.
    type: dict
    default: {}
  salt:
    description: What else decides the image, such as the name of its base.
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
- ansible.builtin.set_fact:
    context: "{{ lookup('trollllm.gateway.build_context', 'proxy_app', include=['Dockerfile', 'goproxy/**']) }}"
"""

RETURN = """
_raw:
  description: For each folder C(files) (a list of C(path) and C(content)) and C(digest) (12 hex digits).
  type: list
  elements: dict
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def read_context(folder: Path, include: list[str], extra: dict[str, str], salt: list[str]) -> dict[str, Any]:
    """The files below ``folder`` that match ``include``, with ``extra``, sorted by path.

    Raises FileNotFoundError for a pattern that matches nothing, ValueError for a file that is not UTF-8.
    """
    files = dict(extra)
    for pattern in include:
        found = [path for path in sorted(folder.glob(pattern)) if path.is_file() and "__pycache__" not in path.parts]
        if not found:
            raise FileNotFoundError(f"nothing matches {pattern!r} below {folder}")
        files.update({str(path.relative_to(folder)): _text_of(path) for path in found})
    digest = hashlib.sha256("\0".join(salt).encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{len(files[name])}\0{files[name]}".encode())
    return {
        "files": [{"path": name, "content": files[name]} for name in sorted(files)],
        "digest": digest.hexdigest()[:12],
    }


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core ships no types
    """``lookup('trollllm.gateway.build_context', folder, include=[...], extra={...}, salt=[...])``."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Read each folder. Raises AnsibleLookupError that names the folder or the file."""
        self.set_options(var_options=variables, direct=kwargs)
        options = [self.get_option(name) for name in ("include", "extra", "salt")]
        try:
            return [read_context(Path(folder), *options) for folder in terms]
        except (OSError, ValueError) as error:
            raise AnsibleLookupError(f"cannot read the build context: {error}") from error
