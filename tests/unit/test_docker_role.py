"""What the role docker decides. That an engine follows is Molecule's."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import trustme

from real_ansible import REPOSITORY, Ansible

ROLE = REPOSITORY / "roles/docker"
ODD_NAMES = ("corp #1.pem", "corp: root.pem", 'the "real" one.pem', "- Corp (new), 2026.pem", "plain.pem")


def test_a_certificate_is_trusted_whatever_its_file_is_called(ansible: Ansible) -> None:
    paths = [ansible.directory / "ca" / name for name in ODD_NAMES]
    for path in paths:
        ansible.write(str(path), trustme.CA().cert_pem.bytes().decode())
    places = {name: ansible.directory / name for name in ("localcertsdir", "etccertsdir", "certsdir", "hooksdir")}
    for name in ("etccertsdir", "certsdir", "hooksdir"):
        places[name].mkdir()
    template = f"{{{{ lookup('ansible.builtin.template', '{ROLE}/templates/certificates.yml.j2') | from_yaml }}}}"
    tree = {"root": str(places["localcertsdir"]), "files": template, "prune": True}
    given = {"docker_extra_ca_certificates": [str(path) for path in paths]}
    run = ansible.play([{"trollllm.gateway.file_tree": tree, "vars": given}])
    assert run.code == 0, run.output
    written = {place.name: place.read_text() for place in places["localcertsdir"].glob("*.crt")}
    assert written == {f"trollllm-{path.stem}.crt": path.read_text() for path in paths}

    if shutil.which("update-ca-certificates") is None:
        pytest.skip("update-ca-certificates is not installed")
    command = ["update-ca-certificates", "--certsconf", "/dev/null"]
    for option, place in places.items():
        command += [f"--{option}", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    bundle = (places["etccertsdir"] / "ca-certificates.crt").read_text()
    assert [path.name for path in paths if path.read_text() not in bundle] == []
