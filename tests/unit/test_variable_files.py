"""The files of an inventory's variables as they are written: where one cannot be read, and keys that it has twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret

from ansible_collections.trollllm.gateway.plugins.plugin_utils.variable_files import Unreadable, compose, repeated_keys
from real_ansible import encrypt


def told(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(Unreadable) as problem:
        compose(path, DataLoader())
    return str(problem.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n  b: {{ x }}\n", 2),
        ("a:\n  - {{ x.y }}\n", 2),
        ("a: {multiplier: {{ x }}}\n", 1),
        ("a: [{{ x }}, 1]\n", 1),
        ("{{ x }}\n", 1),
    ],
)
def test_a_template_without_quotes(tmp_path: Path, text: str, line: int) -> None:
    assert told(tmp_path / "a.yml", text) == (
        f'has a template without quotes in line {line}; quote it: "{{{{ ... }}}}"'
    )


def test_a_template_without_quotes_that_is_not_yaml(tmp_path: Path) -> None:
    assert told(tmp_path / "a.yml", "domain: {{ zone }}.tld\n") == (
        "is not YAML (line 1, column 19): expected <block end>, but found '<scalar>'; quote it: \"{{ ... }}\""
    )
    assert told(tmp_path / "a.yml", "a: [\n").endswith("; correct it")


def test_a_mistake_in_an_encrypted_file_is_told_without_what_stands_there(tmp_path: Path) -> None:
    loader = DataLoader()
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    loader.set_vault_secrets([("default", VaultSecret(password.read_bytes().strip()))])
    vault = tmp_path / "vault.yml"
    vault.write_text(encrypt("vault_a: 1\nvault_b: *hunter2\n", password, "encrypt"))
    with pytest.raises(Unreadable) as problem:
        compose(vault, loader)
    assert str(problem.value) == "is not YAML (line 2, column 10); correct it"


@pytest.mark.parametrize("text", ["", "---\n", "# a: 1\n"])
def test_a_file_that_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yml").write_text(text)
    assert compose(tmp_path / "a.yml", DataLoader()) is None


def test_keys_that_are_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        """
        book:
          opus:
            prices: &prices
              - {input: 5, output: 25, input: 3}
            other: *prices
          1: a number
          "1": text
          sonnet: &base {id: a}
          opus:
            <<: *base
            id: b
            key: !vault |
              $ANSIBLE_VAULT;1.1;AES256
        """
    )
    found = sorted(repeated_keys(compose(tmp_path / "a.yml", DataLoader())))
    assert found == [(5, 5, "book.opus.prices[0].input"), (10, 3, "book.opus")]
