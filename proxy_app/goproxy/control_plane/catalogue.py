"""The catalogue: the models of all upstreams with their prices, from the mounted configurations.

The files are watched and read again within a second of a change. They are rewritten in place (a mounted single file
cannot be replaced), so that half of one may be read: a file that cannot be used leaves its last good version standing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from goproxy.config import STALENESS_SECONDS, Config, ConfigError, Model, parse_config
from goproxy.control_plane.store.authorization import Listed, Scope, listed
from goproxy.core.pricing import PriceVersion, Tier, written_number
from goproxy.core.usage import KINDS
from goproxy.observe import log
from goproxy.watched_file import WatchedFile


class Catalogue:
    """What every upstream offers, as its configuration stands now."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._files = {variable: WatchedFile(path) for variable, path in paths.items()}
        self._configs: dict[str, Config] = {}
        self._scopes: dict[str, tuple[Config, Scope]] = {}
        """With the configuration that each follows from."""
        self._serve_on: dict[str, timedelta] = {}
        """By variable, the longest: a proxy that is cut off may run with a configuration of before."""
        self.problems: dict[str, str] = {}
        """By environment variable: what is wrong with its file as it stands now."""

    def look(self) -> None:
        """Take in the files that have changed."""
        for variable, file in self._files.items():
            try:
                content = file.changed()
                if content is None:
                    continue
                config = parse_config(content, source=str(file.path))
                if variable != (expected := _variable(config.upstream)):
                    problem = f"upstream: {config.upstream!r} in the file that {variable} names; expected {expected}"
                    raise ConfigError(str(file.path), [problem])
            except OSError as error:
                self._is_broken(variable, f"{file.path}: cannot be read: {error.strerror}")
            except ConfigError as error:
                self._is_broken(variable, str(error))
            else:
                if config != self._configs.get(variable) or variable in self.problems:
                    log("configuration read", path=str(file.path), upstream=config.upstream)
                self._configs[variable] = config
                serves_on = timedelta(seconds=config.staleness_seconds + config.timeouts.total)
                self._serve_on[variable] = max(serves_on, self._serve_on.get(variable, serves_on))
                self.problems.pop(variable, None)

    @property
    def mounted(self) -> int:
        """How many configurations there are to be."""
        return len(self._files)

    @property
    def configs(self) -> list[Config]:
        """The configurations of all upstreams as they stand now, by name."""
        return sorted(self._configs.values(), key=lambda config: config.upstream)

    def config_of(self, upstream: str) -> Config | None:
        """The configuration of an upstream as it stands now, if there is one."""
        return self._configs.get(_variable(upstream))

    def serves_on(self, upstream: str) -> timedelta:
        """How long a proxy of this upstream that is cut off from here serves on: what it was configured to, at most.

        That is for as long as it believes its keys, and then for as long as its longest request takes.
        """
        return self._serve_on.get(_variable(upstream), timedelta(seconds=STALENESS_SECONDS))

    def scope_of(self, upstream: str) -> Scope:
        """How far the configuration of an upstream lets its proxies go, as it stands now."""
        config = self.config_of(upstream)
        if _variable(upstream) in self.problems:
            return Scope(upstream, None, frozenset())
        if config is None:
            return Scope(upstream, frozenset(), frozenset())
        known = self._scopes.get(upstream)
        if known is None or known[0] is not config:
            known = self._scopes[upstream] = config, Scope(upstream, frozenset([config.wallet]), _listed(config))
        return known[1]

    def document(self) -> dict[str, Any]:
        """The answer of GET /admin/v1/catalogue.

        Prices are decimal strings, exact, in USD per million tokens; that of `web_search` per thousand searches.
        """
        return {"upstreams": [_upstream(config) for config in self.configs]}

    def _is_broken(self, variable: str, problem: str) -> None:
        if self.problems.get(variable) != problem:
            log(
                "configuration is broken; the last good one stays",
                level=logging.ERROR,
                variable=variable,
                problem=problem,
            )
        self.problems[variable] = problem


def _variable(upstream: str) -> str:
    return f"GOPROXY_{upstream.upper().replace('-', '_')}_CONFIG_PATH"


def _listed(config: Config) -> frozenset[Listed]:
    return frozenset(
        listed(
            model.id, _day(version.effective_from), tier.up_to_prompt_tokens, multiplier, map(tier.written.get, KINDS)
        )
        for model in config.models
        for multiplier in [written_number(model.billing_multiplier)]
        for version in model.prices
        for tiers in (version.tiers, *version.terms.values())
        for tier in tiers
    )


def _upstream(config: Config) -> dict[str, Any]:
    return {
        "upstream": config.upstream,
        "domain": config.domain,
        "protocols": sorted(config.endpoints),
        "multiplier_band": [written_number(bound) for bound in config.multiplier_band],
        "models": [_model(model) for model in config.models],
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "name": model.name,
        "aliases": list(model.id_aliases),
        "upstream": model.upstream,
        "upstream_model_id": model.upstream_model_id,
        "multiplier": written_number(model.billing_multiplier),
        "prices": [_price_version(version, model.billing_multiplier) for version in model.prices],
    }


def _price_version(version: PriceVersion, multiplier: Decimal) -> dict[str, Any]:
    return {
        "effective_from": _day(version.effective_from),
        "tiers": [_tier(tier, multiplier) for tier in version.tiers],
        "terms": {terms: [_tier(tier, multiplier) for tier in tiers] for terms, tiers in sorted(version.terms.items())},
    }


def _tier(tier: Tier, multiplier: Decimal) -> dict[str, Any]:
    return {
        "up_to_prompt_tokens": tier.up_to_prompt_tokens,
        "list": {kind: written_number(price) for kind, price in tier.prices.items()},
        "effective": {kind: written_number(price * multiplier) for kind, price in tier.prices.items()},
    }


def _day(day: date) -> str:
    return day.isoformat()
