"""Whether anything answers to a name: one that is mistyped in a key, a credit or a choice would look like a success.

What was true once stays usable: keys and wallets that are stored, whatever upstreams there are now, and the rows of an
account or an upstream that is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from goproxy.config import Config
from goproxy.control_plane.plane import ControlPlane
from goproxy.control_plane.store import accounts, keys, leases, rows
from goproxy.control_plane.store.refusals import NotFound

_SHOWN = 40  # of the names that there are


def check_key(configs: Sequence[Config], upstreams: Collection[str] | None, models: Collection[str] | None) -> None:
    """A key may be limited to upstreams and models that there are.

    Raises:
        NotFound: there is no such upstream, or none of them has such a model.
    """
    _check("upstream", upstreams or (), [config.upstream for config in configs])
    chosen = configs if upstreams is None else [config for config in configs if config.upstream in upstreams]
    _check("model", models or (), [name for config in chosen for name in config.models_by_name])


def check_change(configs: Sequence[Config], key: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """The same of what changes; what the key has already stays usable.

    Raises:
        NotFound: there is no such upstream, or none of those that the key may use has such a model, or one of its own.
    """
    had = key["upstreams"]
    upstreams = changes.get("upstreams", had)
    gone = {*(had or ())} - {config.upstream for config in configs}
    still = None if upstreams is None else [each for each in upstreams if each not in gone]
    new_models = [each for each in changes.get("models") or () if each not in (key["models"] or ())]
    check_key(configs, still, new_models)
    models = changes.get("models", key["models"])
    if still and models is not None and "upstreams" in changes:
        offered = {name for config in configs if config.upstream in still for name in config.models_by_name}
        if offered.isdisjoint(models):
            raise NotFound(f"none of {', '.join(still)} has a model that the key may use ({', '.join(models)})")


async def check_choice(plane: ControlPlane, *, account: str | None = None, upstream: str | None = None) -> None:
    """What is asked about an account or an upstream has an answer.

    Raises:
        NotFound: neither the catalogue nor the store has one of this name.
    """

    def work(store: Connection) -> None:
        if account is not None and not accounts.is_named(store, account):
            raise NotFound(f"there is no account {account!r}")
        if upstream is not None:
            _check(
                "upstream",
                [upstream],
                {*(config.upstream for config in plane.catalogue.configs), *leases.upstreams(store)},
            )

    if account is not None or upstream is not None:
        await plane.database.read("look for names", work)


async def resolved(plane: ControlPlane, chosen: rows.Chosen) -> rows.Chosen:
    """A choice of rows with a model by whatever name clients call it: rows have its id.

    An alias may stand for different ids at different upstreams. Where an upstream has neither the alias (any more) nor
    an id that it stands for elsewhere, the rows of that id are meant as well.

    Raises:
        NotFound: neither the catalogue nor the store has such an account or upstream.
    """
    await check_choice(plane, account=chosen.account, upstream=chosen.upstream)
    model = chosen.model
    if model is None:
        return chosen
    by_upstream = {
        config.upstream: {name: each.id for name, each in config.models_by_name.items()}
        for config in plane.catalogue.configs
    }
    ids = {names[model] for names in by_upstream.values() if model in names}
    aliased = []
    for upstream in sorted({*by_upstream, *await plane.database.read("look for names", leases.upstreams)}):
        names = by_upstream.get(upstream, {})
        meant = {names[model]} if model in names else ids - names.keys()
        aliased += [(upstream, each) for each in sorted(meant - {model})]
    return replace(chosen, aliased=tuple(aliased))


async def check_nothing_found(plane: ControlPlane, chosen: rows.Chosen) -> None:
    """A choice that no row answers to has at least a key and a model that there are. (The rows are walked for it.)

    Raises:
        NotFound: there is no such key, or neither the catalogue nor any row has such a model.
    """
    key, model = chosen.key, chosen.model
    if key is not None:
        await plane.database.read("look for names", lambda store: keys.get(store, key))
    known = {name for config in plane.catalogue.configs for name in config.models_by_name}
    if model is None or model in known:
        return
    of_model = rows.Chosen(model=model)
    async for found in plane.database.read_in_steps("look for names", lambda s, after: rows.step(s, of_model, after)):
        if found:
            return
    _check("model", [model], known)


def _check(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    names = sorted(set(known))
    for each in named:
        if each not in names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise NotFound(f"there is no {what} {each!r}; there are {', '.join(names[:_SHOWN]) or 'none'}{more}")
