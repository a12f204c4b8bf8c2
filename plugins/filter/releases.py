"""Filters that hold the inventory's upstreams against the releases of a host: what runs there, and what ran before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def longest_timeouts(upstreams: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By upstream, timeouts that are enough for the inventory, what runs, and what a rollback brings back."""
    return {
        upstream["name"]: longest([upstream, *configurations(record.get(upstream["name"], {}))])
        for upstream in upstreams
    }


def longest(configurations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each timeout of the first one, or the longer one that another has."""
    timeouts = [each["timeouts"] for each in configurations]
    return {name: max(each.get(name, seconds) for each in timeouts) for name, seconds in timeouts[0].items()}


def configurations(releases: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of the release that runs and of the one before it, as far as they are known."""
    for release in releases.values():
        if release.get("config"):
            yield json.loads(release["config"])


def renamed(upstreams: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Domains that an upstream takes over from one that the inventory has no more, and both names."""
    names = {upstream["name"] for upstream in upstreams}
    former = {
        config["domain"]: name
        for name, releases in record.items()
        if name not in names
        for config in configurations({"current": releases.get("current", {})})
    }
    return [
        {"domain": upstream["domain"], "former": former[upstream["domain"]], "name": upstream["name"]}
        for upstream in upstreams
        if upstream["domain"] in former
    ]


def moved(upstreams: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> list[str]:
    """Names of upstreams that had another port or domain in the release before the one that runs."""
    names = []
    for upstream in upstreams:
        previous = record.get(upstream["name"], {}).get("previous", {})
        config = next(configurations({"previous": previous}), {})
        if any(config.get(what) != upstream[what] for what in ("port", "domain")):
            names.append(upstream["name"])
    return names


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        return {"longest_timeouts": longest_timeouts, "renamed": renamed, "moved": moved}
