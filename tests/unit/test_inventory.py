"""The rules for what an operator writes. A row of the table: what is spoiled, and the line that the operator reads."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from ansible_collections.trollllm.gateway.plugins.module_utils.field import Unresolved
from ansible_collections.trollllm.gateway.plugins.module_utils.inventory import (
    ADMIN_BODY_MIB,
    MOST_NAMES,
    check,
    misnamed,
    oversized,
)
from ansible_collections.trollllm.gateway.plugins.module_utils.site import ACME_DIRECTORIES
from real_ansible import REPOSITORY
from sound_inventory import ALICE, BOB, PROVIDER_KEY, SOUND, Inventory

Checked = tuple[list[dict[str, Any]], list[str]]
Row = tuple[tuple[str | int, ...], Any, list[str]]

U = ("upstreams", "openhands")
B = ("price_book", "opus")
P = (*B, "prices")
T = ("price_book", "gemini", "prices", 0, "tiers")
TERMS = (*P, 0, "terms")
COSTS = {"input": 10, "output": 50}
S = "settings"

FULL_URL = "give the full https URL that requests go to, like https://provider.tld/v1/chat/completions"
A_BAND = "give the lowest and the highest multiplier, like [1.04, 1.1]"
A_PORT = "give a port from 1024 to 65535, like 8004"
A_SECRET = "put the provider's key into the vault"
A_MODEL_ID = "give a model id, like claude-opus-4-5: up to 200 ASCII characters without white space"
A_DAY = 'write the day from which it holds, like "2025-11-24"'
LADDER = "keep connect <= first_byte <= total and idle <= total"
STRAY = "has white space or a character beyond ASCII in it; look for a line break at its end"
AN_IPV4 = "give the public IPv4 address of the host"
AN_IPV6 = "give the public IPv6 address of the host"
A_ZONE = "give the DNS zone that the upstreams' domains are in, like trollllm.xyz"
A_TOKEN = "give an API token that may edit the zone"
AN_EMAIL = "give an address that the certificate authority may write to"
A_KEY = "make one with `PYTHONPATH=proxy_app python3 -m goproxy.cli key new`"
AN_ACCOUNT = "give at least one account and its key (`PYTHONPATH=proxy_app python3 -m goproxy.cli key new` makes one)"
A_SERVER = 'give IP addresses, with a port where it is not 53, like "192.168.1.1:5353"; [] asks the zone\'s own servers'
A_PRIMARY = "give the IP address of the server that takes updates"
A_DATABASE = "give postgresql://USER:PASSWORD@HOST:PORT/NAME, or leave it out for SQLite on the host"
ITS_OWN = "which is the backend's container itself; give the server's address: docs/accounts.md, PostgreSQL"
ENCODE = "percent-encode what is special in user and password: @ is %40, : is %3A, / is %2F"
A_WALLET = "give a name of up to 41 small letters, digits and '-', or leave it out for the account's own wallet"
A_TERM = "give the value that requests have, one word like priority"
A_LIMIT = "give a number of tokens above 0, as the provider states it"
STALENESS = "give a whole number of seconds, 1 to 604800 (a week)"
PROCESSES = "give a whole number of processes, 1 to 16, one for each core at most"
A_DIRECTORY = "give letsencrypt or letsencrypt-staging, or the https URL of a directory"

UPSTREAM_ROWS: dict[str, Row] = {
    # keys
    "missing key": (
        (*U, "domain"),
        ...,
        ['openhands: domain: is missing; give the domain that clients use, like "chat.{{ gateway_zone }}"'],
    ),
    "unknown key, a slip": (
        (*U, "tll"),
        300,
        ["openhands: tll: is not a known key; did you mean ttl?"],
    ),
    "unknown key, its value stays unsaid": (
        (*U, "password"),
        "hunter2hunter2",
        [
            "openhands: password: is not a known key; known here: domain, port, api_key, endpoints, multiplier_band, "
            "models, chat_limit, disconnect, include_usage, max_body_mib, processes, staleness_seconds, timeouts, ttl, "
            "wallet"
        ],
    ),
    "no mapping": (
        U,
        "sk-oops-the-key-itself",
        [
            "openhands: is text; give a mapping of domain, port, api_key, endpoints, "
            "multiplier_band, models, chat_limit, disconnect, include_usage, max_body_mib, processes, "
            "staleness_seconds, timeouts, ttl or wallet"
        ],
    ),
    # name
    "name with a capital": (
        ("upstreams", "OpenAI"),
        {},
        [
            "OpenAI: is no name for an upstream; use 1 to 41 small letters, digits and '_' after goproxy_upstream__, "
            "a letter or digit first",
            "OpenAI: api_key: is missing; give the provider's key, from the vault",
            'OpenAI: domain: is missing; give the domain that clients use, like "chat.{{ gateway_zone }}"',
            "OpenAI: endpoints: is missing; give the URL of at least one protocol (anthropic, openai)",
            "OpenAI: models: is missing; give at least one model of goproxy_price_book, like claude-opus-4-5: "
            "{multiplier: 1.08}",
            f"OpenAI: multiplier_band: is missing; {A_BAND}",
            "OpenAI: port: is missing; give a port that no other upstream has, like 8004",
        ],
    ),
    # port
    "port as text": ((*U, "port"), "8004", ['openhands: port: is "8004", text; write it without quotes: 8004']),
    "port a boolean": ((*U, "port"), True, [f"openhands: port: is true, a boolean; {A_PORT}"]),
    "port a fraction": ((*U, "port"), 8004.5, [f"openhands: port: is 8004.5, a number; {A_PORT}"]),
    "port empty": ((*U, "port"), None, [f"openhands: port: is nothing; {A_PORT}"]),
    "port of the edge, http": ((*U, "port"), 80, [f"openhands: port: is 80, which the edge has; {A_PORT}"]),
    "port of the edge, https": ((*U, "port"), 443, [f"openhands: port: is 443, which the edge has; {A_PORT}"]),
    "port of the backend": ((*U, "port"), 8000, [f"openhands: port: is 8000, which the backend has; {A_PORT}"]),
    "port too low": ((*U, "port"), 1023, [f"openhands: port: is 1023; {A_PORT}"]),
    "port too high": ((*U, "port"), 65536, [f"openhands: port: is 65536; {A_PORT}"]),
    "port clash": (
        (*U, "port"),
        8005,
        ["openhands: port: is 8005, the port of ohmygpt too; give ohmygpt or openhands another port"],
    ),
    # domain
    "domain outside the zone": (
        (*U, "domain"),
        "chat.trollllm.org",
        [
            'openhands: domain: is "chat.trollllm.org", outside the zone trollllm.xyz; '
            "give trollllm.xyz or a name that ends in .trollllm.xyz"
        ],
    ),
    "domain that only ends like the zone": (
        (*U, "domain"),
        "eviltrollllm.xyz",
        [
            'openhands: domain: is "eviltrollllm.xyz", outside the zone trollllm.xyz; '
            "give trollllm.xyz or a name that ends in .trollllm.xyz"
        ],
    ),
    "domain without a dot": (
        (*U, "domain"),
        "chat",
        ['openhands: domain: is "chat", not a fully qualified domain name; give a name in the zone trollllm.xyz'],
    ),
    "domain with an underscore": (
        (*U, "domain"),
        "my_chat.trollllm.xyz",
        ['openhands: domain: is "my_chat.trollllm.xyz", not a domain name; give a name in the zone trollllm.xyz'],
    ),
    "domain a wildcard": (
        (*U, "domain"),
        "*.trollllm.xyz",
        ['openhands: domain: is "*.trollllm.xyz", not a domain name; give a name in the zone trollllm.xyz'],
    ),
    "domain with a final dot": (
        (*U, "domain"),
        "chat.trollllm.xyz.",
        [
            'openhands: domain: is "chat.trollllm.xyz.", with a dot at its end (leave it out); '
            "give a name in the zone trollllm.xyz"
        ],
    ),
    "domain in capitals": (
        (*U, "domain"),
        "Chat.trollllm.xyz",
        [
            'openhands: domain: is "Chat.trollllm.xyz", with capital letters in it (use lower case); '
            "give a name in the zone trollllm.xyz"
        ],
    ),
    "domain beyond ASCII": (
        (*U, "domain"),
        "Bücher.trollllm.xyz",
        [
            'openhands: domain: is "Bücher.trollllm.xyz", with characters beyond ASCII in it (write it as xn--...); '
            "give a name in the zone trollllm.xyz"
        ],
    ),
    "domain a number": (
        (*U, "domain"),
        1,
        ["openhands: domain: is 1, a number; give a name in the zone trollllm.xyz"],
    ),
    "domain clash": (
        (*U, "domain"),
        "chat2.trollllm.xyz",
        [
            "openhands: domain: is chat2.trollllm.xyz, the domain of ohmygpt too; "
            "give ohmygpt or openhands another domain"
        ],
    ),
    # multipliers
    "multiplier above the band": (
        (*U, "models", "opus", "multiplier"),
        1.2,
        [
            "openhands: models.opus.multiplier: multiplier of opus is 1.2, outside the band 1.06-1.08; "
            "give one inside it, or change multiplier_band"
        ],
    ),
    "multiplier just below the band": (
        (*U, "models", "opus", "multiplier"),
        1.0599999,
        [
            "openhands: models.opus.multiplier: multiplier of opus is 1.0599999, outside the band 1.06-1.08; "
            "give one inside it, or change multiplier_band"
        ],
    ),
    "multiplier longer than a row has room for": (
        (*U, "models", "opus", "multiplier"),
        0.0010700000000000002,
        [
            "openhands: models.opus.multiplier: is 0.0010700000000000002, longer than the ledger takes; "
            "give at most 9 digits before the point and 18 after it"
        ],
    ),
    "multiplier missing": (
        (*U, "models", "opus", "multiplier"),
        ...,
        ["openhands: models.opus.multiplier: is missing; give the factor on the list price, like 1.08"],
    ),
    "multiplier as text": (
        (*U, "models", "opus", "multiplier"),
        "1.08",
        ['openhands: models.opus.multiplier: is "1.08", text; write it without quotes: 1.08'],
    ),
    "multiplier infinite": (
        (*U, "models", "opus", "multiplier"),
        float("inf"),
        ["openhands: models.opus.multiplier: is inf; give the factor on the list price, like 1.08"],
    ),
    "band of one": ((*U, "multiplier_band"), [1.06], [f"openhands: multiplier_band: has 1 entries; {A_BAND}"]),
    "band no list": (
        (*U, "multiplier_band"),
        "1.06-1.08",
        [f'openhands: multiplier_band: is "1.06-1.08", text; {A_BAND}'],
    ),
    "band of text": (
        (*U, "multiplier_band"),
        [1.06, "high"],
        [f'openhands: multiplier_band[1]: is "high", text; {A_BAND}'],
    ),
    "band upside down": (
        (*U, "multiplier_band"),
        [1.08, 1.06],
        [f"openhands: multiplier_band: is [1.08, 1.06], the higher one first; {A_BAND}"],
    ),
    "band from zero": (
        (*U, "multiplier_band"),
        [0, 1.08],
        ["openhands: multiplier_band[0]: is 0; a multiplier is above 0"],
    ),
    # models
    "model without price": (
        (*U, "models", "opsu"),
        {"multiplier": 1.07},
        ["openhands: models.opsu: has no price in goproxy_price_book; did you mean opus?"],
    ),
    "model without price, nothing near": (
        (*U, "models", "llama"),
        {"multiplier": 1.07},
        ["openhands: models.llama: has no price in goproxy_price_book; add the model there"],
    ),
    "model a number": (
        (*U, "models", "opus"),
        1.08,
        ["openhands: models.opus: is a number; give a mapping like {multiplier: 1.08}"],
    ),
    "model with an unknown key": (
        (*U, "models", "opus", "upstream_model"),
        "x",
        ["openhands: models.opus.upstream_model: is not a known key; did you mean upstream_model_id?"],
    ),
    "upstream_model_id with a space": (
        (*U, "models", "opus", "upstream_model_id"),
        "the opus",
        [f'openhands: models.opus.upstream_model_id: is "the opus"; {A_MODEL_ID}'],
    ),
    "no models": (
        (*U, "models"),
        {},
        [
            "openhands: models: is empty; give at least one model of goproxy_price_book, like claude-opus-4-5: "
            "{multiplier: 1.08}"
        ],
    ),
    "no price yet": (
        (*P, 1, "effective_from"),
        "2026-06-02",
        [],
    ),
    # endpoints
    "no endpoint": (
        (*U, "endpoints"),
        {},
        ["openhands: endpoints: is empty; give the URL of at least one protocol (anthropic, openai)"],
    ),
    "unknown protocol, a slip": (
        (*U, "endpoints", "antropic"),
        "https://a.tld/v1",
        ["openhands: endpoints.antropic: is not a known protocol; did you mean anthropic?"],
    ),
    "unknown protocol": (
        (*U, "endpoints", "gemini"),
        "https://a.tld/v1",
        ["openhands: endpoints.gemini: is not a known protocol; known here: anthropic, openai or responses"],
    ),
    "endpoint not https": (
        (*U, "endpoints", "openai"),
        "http://a.tld/v1",
        [f"openhands: endpoints.openai: is http://a.tld/v1, which is no https URL (it begins with http:); {FULL_URL}"],
    ),
    "endpoint without scheme": (
        (*U, "endpoints", "openai"),
        "a.tld/v1",
        [f"openhands: endpoints.openai: is a.tld/v1, which is no https URL; {FULL_URL}"],
    ),
    "endpoint with a query": (
        (*U, "endpoints", "openai"),
        "https://a.tld/v1?key=hunter2",
        [f"openhands: endpoints.openai: is https://a.tld/v1, which carries a query; {FULL_URL}"],
    ),
    "endpoint with an empty query": (
        (*U, "endpoints", "openai"),
        "https://a.tld/v1?",
        [f"openhands: endpoints.openai: is https://a.tld/v1, which carries a query; {FULL_URL}"],
    ),
    "endpoint with a fragment": (
        (*U, "endpoints", "openai"),
        "https://a.tld/v1#hunter2",
        [f"openhands: endpoints.openai: is https://a.tld/v1, which carries a fragment; {FULL_URL}"],
    ),
    "endpoint with credentials": (
        (*U, "endpoints", "openai"),
        "https://me:hunter2@a.tld/v1",
        [f"openhands: endpoints.openai: is https://a.tld/v1, which carries credentials; {FULL_URL}"],
    ),
    "endpoint without path": (
        (*U, "endpoints", "openai"),
        "https://a.tld",
        [f"openhands: endpoints.openai: is https://a.tld, which has no path; {FULL_URL}"],
    ),
    "endpoint with a final slash": (
        (*U, "endpoints", "openai"),
        "https://a.tld/v1/",
        [f"openhands: endpoints.openai: is https://a.tld/v1/, which has a slash at its end; {FULL_URL}"],
    ),
    "endpoint without host": (
        (*U, "endpoints", "openai"),
        "https:///v1",
        [f"openhands: endpoints.openai: is https:///v1, which has no valid host name; {FULL_URL}"],
    ),
    "endpoint with a bad port": (
        (*U, "endpoints", "openai"),
        "https://a.tld:port/v1",
        [f"openhands: endpoints.openai: is https://a.tld/v1, which is no URL; {FULL_URL}"],
    ),
    "endpoint beyond ASCII": (
        (*U, "endpoints", "openai"),
        "https://bücher.tld/v1/chat/completions",
        [
            "openhands: endpoints.openai: is https://bücher.tld/v1/chat/completions, which has a host name with "
            f"characters beyond ASCII in it (write it as xn--...); {FULL_URL}"
        ],
    ),
    "endpoint at an IPv6 address": (
        (*U, "endpoints", "openai"),
        "https://[2001:4860::8888]:8443/v1/chat/completions",
        [
            "openhands: endpoints.openai: is https://[2001:4860::8888]:8443/v1/chat/completions, which has an IPv6 "
            f"address (the network of the containers has IPv4 only); {FULL_URL}"
        ],
    ),
    "endpoint at an IPv6 address without brackets": (
        (*U, "endpoints", "openai"),
        "https://2001:4860::8888/v1/chat/completions",
        [f"openhands: endpoints.openai: is https://2001:4860::8888/v1/chat/completions, which is no URL; {FULL_URL}"],
    ),
    "endpoint that is a key": (
        (*U, "endpoints", "openai"),
        "sk-0123456789012345678901234567890123456789-hunter2",
        [f"openhands: endpoints.openai: is (not shown), which is no https URL; {FULL_URL}"],
    ),
    **{
        f"endpoint of another path, {written}": (
            (*U, "endpoints", protocol),
            f"https://a.tld{written}",
            [
                f"openhands: endpoints.{protocol}: is https://a.tld{written}, which does not end in {end}; "
                f"did you mean https://a.tld{meant}?"
            ],
        )
        for protocol, end, written, meant in [
            ("openai", "/chat/completions", ":8443/v1", ":8443/v1/chat/completions"),
            ("openai", "/chat/completions", "/api/paas/v4", "/api/paas/v4/chat/completions"),
            ("openai", "/chat/completions", "/v1/messages", "/v1/chat/completions"),
            ("openai", "/chat/completions", "/v1/chat", "/v1/chat/completions"),
            ("openai", "/chat/completions", "/v1/responses", "/v1/chat/completions"),
            ("openai", "/chat/completions", "/v1/completions", "/v1/chat/completions"),
            ("openai", "/chat/completions", "/api", "/api/v1/chat/completions"),
            ("anthropic", "/messages", "/v1/chat/completions", "/v1/messages"),
            ("responses", "/responses", "/v1", "/v1/responses"),
            ("responses", "/responses", "/openai/v1/chat/completions", "/openai/v1/responses"),
            ("anthropic", "/messages", "/v1/messages/count_tokens", "/v1/messages"),
            ("anthropic", "/messages", "/anthropic", "/anthropic/v1/messages"),
        ]
    },
    # secrets
    "api_key a number": ((*U, "api_key"), 12345678, [f"openhands: api_key: is a number; {A_SECRET}"]),
    "api_key empty": ((*U, "api_key"), "", [f"openhands: api_key: is empty; {A_SECRET}"]),
    "api_key with a line break": ((*U, "api_key"), "sk-hunter2hunter2\n", [f"openhands: api_key: {STRAY}"]),
    "api_key undefined": (
        (*U, "api_key"),
        Unresolved("refers to vault_openhands_api_key, which is not defined", "define it"),
        ["openhands: api_key: refers to vault_openhands_api_key, which is not defined; define it"],
    ),
    # limits
    "ttl too short": ((*U, "ttl"), 299, ["openhands: ttl: is 299; give 300 to 3600 seconds"]),
    "ttl too long": ((*U, "ttl"), 3601, ["openhands: ttl: is 3601; give 300 to 3600 seconds"]),
    "ttl as text": ((*U, "ttl"), "300", ['openhands: ttl: is "300", text; write it without quotes: 300']),
    "body of nothing": ((*U, "max_body_mib"), 0, ["openhands: max_body_mib: is 0; give 1 to 512 (MiB)"]),
    "body too large": ((*U, "max_body_mib"), 513, ["openhands: max_body_mib: is 513; give 1 to 512 (MiB)"]),
    # billing
    "wallet with a slash": ((*U, "wallet"), "alice/main", [f'openhands: wallet: is "alice/main"; {A_WALLET}']),
    "wallet of nothing": ((*U, "wallet"), None, [f"openhands: wallet: is nothing; {A_WALLET}"]),
    "include_usage a word": (
        (*U, "include_usage"),
        "never",
        ['openhands: include_usage: is "never", text; give true or false'],
    ),
    "include_usage a number": (
        (*U, "include_usage"),
        0,
        ["openhands: include_usage: is 0, a number; give true or false"],
    ),
    "chat_limit that is none": (
        (*U, "chat_limit"),
        "n",
        ['openhands: chat_limit: is "n"; give either, max_tokens or max_completion_tokens'],
    ),
    "chat_limit in a list": (
        (*U, "chat_limit"),
        ["max_tokens"],
        ["openhands: chat_limit: is a list; give either, max_tokens or max_completion_tokens"],
    ),
    "staleness of nothing": ((*U, "staleness_seconds"), 0, [f"openhands: staleness_seconds: is 0; {STALENESS}"]),
    "staleness of a month": (
        (*U, "staleness_seconds"),
        2592000,
        [f"openhands: staleness_seconds: is 2592000; {STALENESS}"],
    ),
    "staleness in words": (
        (*U, "staleness_seconds"),
        "1h",
        [f'openhands: staleness_seconds: is "1h", text; {STALENESS}'],
    ),
    "no process": ((*U, "processes"), 0, [f"openhands: processes: is 0; {PROCESSES}"]),
    "too many processes": ((*U, "processes"), 17, [f"openhands: processes: is 17; {PROCESSES}"]),
    "processes in words": ((*U, "processes"), "auto", [f'openhands: processes: is "auto", text; {PROCESSES}']),
    "disconnect a word": (
        (*U, "disconnect"),
        "abort",
        ["openhands: disconnect: is text; give a mapping of policy, seconds, max_mib or concurrent"],
    ),
    "disconnect policy": (
        (*U, "disconnect"),
        {"policy": "ignore"},
        ['openhands: disconnect.policy: is "ignore"; give drain or abort'],
    ),
    "disconnect in bytes": (
        (*U, "disconnect"),
        {"bytes": 1},
        ["openhands: disconnect.bytes: is not a known key; known here: policy, seconds, max_mib, concurrent"],
    ),
    "disconnect too long": (
        (*U, "disconnect"),
        {"seconds": 3601},
        ["openhands: disconnect.seconds: is 3601; give a whole number, 1 to 3600"],
    ),
    "disconnect of nothing": (
        (*U, "disconnect"),
        {"concurrent": 0},
        ["openhands: disconnect.concurrent: is 0; give a whole number, 1 to 10000"],
    ),
    "disconnect too large": (
        (*U, "disconnect"),
        {"max_mib": "16"},
        ['openhands: disconnect.max_mib: is "16", text; write it without quotes: 16'],
    ),
    "timeout zero": (
        (*U, "timeouts"),
        {"idle": 0},
        ["openhands: timeouts.idle: is 0; give a whole number of seconds, 1 to 86400"],
    ),
    "timeout a fraction": (
        (*U, "timeouts"),
        {"idle": 0.5},
        ["openhands: timeouts.idle: is 0.5, a number; give a whole number of seconds, 1 to 86400"],
    ),
    "timeout unknown": (
        (*U, "timeouts"),
        {"firstbyte": 30},
        ["openhands: timeouts.firstbyte: is not a known key; did you mean first_byte?"],
    ),
    "connect above first_byte": (
        (*U, "timeouts"),
        {"connect": 301},
        [f"openhands: timeouts.connect: connect is 301, longer than first_byte, 300; {LADDER}"],
    ),
    "first_byte above total": (
        (*U, "timeouts"),
        {"total": 200},
        [f"openhands: timeouts.total: first_byte is 300, longer than total, 200; {LADDER}"],
    ),
    "idle above total": (
        (*U, "timeouts"),
        {"idle": 400, "total": 350},
        [f"openhands: timeouts.idle: idle is 400, longer than total, 350; {LADDER}"],
    ),
}

PRICE_ROWS: dict[str, Row] = {
    "no name": (
        ("price_book", "opus", "name"),
        ...,
        ["goproxy_price_book: opus.name: is missing; give the name that people see, like Claude Opus 4.5"],
    ),
    "id with a space": (
        ("price_book", "opus", "id"),
        "opus 4.5",
        [f'goproxy_price_book: opus.id: is "opus 4.5"; {A_MODEL_ID}'],
    ),
    "aliases no list": (
        ("price_book", "opus", "aliases"),
        "claude-opus-4-5",
        ['goproxy_price_book: opus.aliases: is "claude-opus-4-5", text; give a list of other ids, or leave it out'],
    ),
    "alias of another model": (
        ("price_book", "gemini", "aliases"),
        ["claude-opus-4-5"],
        [
            'openhands: models.gemini: has the id or alias "claude-opus-4-5", which is that of opus too; '
            "change one of them in goproxy_price_book"
        ],
    ),
    "id of another model": (
        ("price_book", "gemini", "id"),
        "claude-opus-4-5-20251101",
        [
            'openhands: models.gemini: has the id or alias "claude-opus-4-5-20251101", which is that of opus too; '
            "change one of them in goproxy_price_book"
        ],
    ),
    "prompt of nothing": ((*B, "context_tokens"), 0, [f"goproxy_price_book: opus.context_tokens: is 0; {A_LIMIT}"]),
    "answer as text": (
        (*B, "max_output_tokens"),
        "64k",
        [f'goproxy_price_book: opus.max_output_tokens: is "64k", text; {A_LIMIT}'],
    ),
    "answer longer than the context": (
        (*B, "max_output_tokens"),
        200001,
        [
            "goproxy_price_book: opus.max_output_tokens: max_output_tokens is 200001, more than context_tokens, "
            "200000; give both as the provider states them"
        ],
    ),
    "context shorter than an answer": (
        (*B, "context_tokens"),
        63999,
        [
            "goproxy_price_book: opus.context_tokens: max_output_tokens is 64000, more than context_tokens, 63999; "
            "give both as the provider states them"
        ],
    ),
    "no prices": (
        P,
        [],
        [
            "goproxy_price_book: opus.prices: is an empty list; "
            "give at least one price with effective_from, input and output"
        ],
    ),
    "no input": (
        (*P, 0, "input"),
        ...,
        ["goproxy_price_book: opus.prices[0].input: is missing; give USD per million tokens"],
    ),
    "unknown amount": (
        (*P, 0, "cache_reads"),
        1,
        ["goproxy_price_book: opus.prices[0].cache_reads: is not a known key; did you mean cache_read?"],
    ),
    "negative": (
        (*P, 0, "output"),
        -0.5,
        ["goproxy_price_book: opus.prices[0].output: is -0.5; a price is 0 or more"],
    ),
    "amount per token": (
        (*P, 0, "input"),
        0.000003,
        [
            "goproxy_price_book: opus.prices[0].input: is 0.000003, as if it were USD per token; "
            "give USD per million tokens: 3"
        ],
    ),
    "amount of a tier per token": (
        (*T, 1, "output"),
        0.0006,
        [
            "goproxy_price_book: gemini.prices[0].tiers[1].output: is 0.0006, as if it were USD per token; "
            "give USD per million tokens: 600"
        ],
    ),
    "amount as text": (
        (*P, 1, "cache_write_5m"),
        "6.25",
        ['goproxy_price_book: opus.prices[1].cache_write_5m: is "6.25", text; write it without quotes: 6.25'],
    ),
    "amount not a number": (
        (*P, 1, "input"),
        float("nan"),
        ["goproxy_price_book: opus.prices[1].input: is nan; give USD per million tokens, like 6.25"],
    ),
    "bad date": (
        (*P, 0, "effective_from"),
        "2026-02-30",
        [f'goproxy_price_book: opus.prices[0].effective_from: is "2026-02-30", no date; {A_DAY}'],
    ),
    "date in another form": (
        (*P, 0, "effective_from"),
        "1.1.2026",
        [f'goproxy_price_book: opus.prices[0].effective_from: is "1.1.2026", no date; {A_DAY}'],
    ),
    "date a time": (
        (*P, 0, "effective_from"),
        datetime.datetime(2026, 1, 1, 12),
        [f"goproxy_price_book: opus.prices[0].effective_from: is 2026-01-01 12:00:00, a date; {A_DAY}"],
    ),
    "two prices on one day": (
        (*P, 0, "effective_from"),
        "2025-11-24",
        [
            "goproxy_price_book: opus.prices[1].effective_from: is 2025-11-24, the date of another price of this "
            "model; give each price its own day"
        ],
    ),
    "no price effective by today": (
        ("price_book", "gemini", "prices", 0, "effective_from"),
        "2026-06-02",
        [
            "openhands: models.gemini: has no price in goproxy_price_book that holds on 2026-06-01; "
            "give one whose effective_from is not in the future"
        ],
    ),
    "last tier closed": (
        (*T, 1, "up_to_prompt_tokens"),
        1000000,
        [
            "goproxy_price_book: gemini.prices[0].tiers[1].up_to_prompt_tokens: is 1000000 in the last tier, "
            "so that longer prompts have no price; leave it out of the last tier"
        ],
    ),
    "tier open too early": (
        (*T, 0, "up_to_prompt_tokens"),
        ...,
        ["goproxy_price_book: gemini.prices[0].tiers[0].up_to_prompt_tokens: is missing; only the last tier is open"],
    ),
    "tiers not ascending": (
        T,
        [
            {"up_to_prompt_tokens": 200000, "input": 2, "output": 12},
            {"up_to_prompt_tokens": 200000, "input": 3, "output": 14},
            {"input": 4, "output": 18},
        ],
        [
            "goproxy_price_book: gemini.prices[0].tiers[1].up_to_prompt_tokens: is 200000, not above 200000 of the "
            "tier before it; order the tiers by it, ascending"
        ],
    ),
    "no tier": (T, [], ["goproxy_price_book: gemini.prices[0].tiers: is an empty list; give at least one tier"]),
    "tiers and amounts": (
        ("price_book", "gemini", "prices", 0, "input"),
        2,
        [
            "goproxy_price_book: gemini.prices[0].input: is not a known key; "
            "known here: effective_from, tiers, web_search, terms"
        ],
    ),
    "search below nothing": (
        (*P, 0, "web_search"),
        -1,
        ["goproxy_price_book: opus.prices[0].web_search: is -1; a price is 0 or more"],
    ),
    "search as text": (
        (*P, 0, "web_search"),
        "ten",
        ['goproxy_price_book: opus.prices[0].web_search: is "ten", text; give USD per thousand searches, like 10'],
    ),
    "price of one search": (
        (*P, 0, "web_search"),
        0.035,
        [
            "goproxy_price_book: opus.prices[0].web_search: is 0.035, as if it were USD per search; "
            "give USD per thousand searches: 35"
        ],
    ),
    "search in a tier": (
        (*T, 0, "web_search"),
        10,
        [
            "goproxy_price_book: gemini.prices[0].tiers[0].web_search: is not a known key; known here: input, output, "
            "up_to_prompt_tokens, cache_write_5m, cache_write_1h, cache_read, reasoning"
        ],
    ),
    "terms no list": (
        TERMS,
        {"speed": "fast"},
        [
            "goproxy_price_book: opus.prices[0].terms: is a mapping; "
            "give a list of prices, each with service_tier, speed or inference_geo"
        ],
    ),
    "no terms in terms": (
        TERMS,
        [],
        [
            "goproxy_price_book: opus.prices[0].terms: is an empty list; "
            "leave it out, or give the prices of what requests may ask for"
        ],
    ),
    "terms for nothing": (
        TERMS,
        [COSTS],
        [
            "goproxy_price_book: opus.prices[0].terms[0]: does not say what it is for; "
            "give inference_geo, service_tier or speed"
        ],
    ),
    "terms that are standard": (
        TERMS,
        [{"speed": "fast", **COSTS}, {"service_tier": "auto", "inference_geo": "global", **COSTS}],
        [
            'goproxy_price_book: opus.prices[0].terms[1].inference_geo: is "global", which is standard; '
            "the price beside terms holds for it: leave this entry out"
        ],
    ),
    "terms twice": (
        TERMS,
        [
            {"speed": "fast", "inference_geo": "us", **COSTS},
            {"inference_geo": "us", "speed": "fast", "service_tier": "default", **COSTS},
        ],
        [
            'goproxy_price_book: opus.prices[0].terms[1]: is for inference_geo "us" and speed "fast", '
            "and another entry of this price is, too; leave one of them out"
        ],
    ),
    "terms of two words": (
        TERMS,
        [{"service_tier": "very fast", **COSTS}],
        [f'goproxy_price_book: opus.prices[0].terms[0].service_tier: is "very fast"; {A_TERM}'],
    ),
    "terms by another name": (
        TERMS,
        [{"service_tier": "fast", "input": 1, "output": 2}],
        [
            'goproxy_price_book: opus.prices[0].terms[0].service_tier: is "fast", which answers call priority; '
            "write priority: it is for both, as with OpenAI"
        ],
    ),
    "terms as a number": (
        TERMS,
        [{"speed": 2, **COSTS}],
        [f"goproxy_price_book: opus.prices[0].terms[0].speed: is 2, a number; {A_TERM}"],
    ),
    "terms by a slip": (
        TERMS,
        [{"service_teir": "flex", "speed": "fast", **COSTS}],
        ["goproxy_price_book: opus.prices[0].terms[0].service_teir: is not a known key; did you mean service_tier?"],
    ),
    "terms without a price": (
        TERMS,
        [{"service_tier": "flex", "input": 1}],
        ["goproxy_price_book: opus.prices[0].terms[0].output: is missing; give USD per million tokens"],
    ),
    "terms whose tiers do not fit": (
        TERMS,
        [{"service_tier": "flex", "tiers": [{"up_to_prompt_tokens": 9, "input": 1, "output": 1}]}],
        [
            "goproxy_price_book: opus.prices[0].terms[0].tiers[0].up_to_prompt_tokens: is 9 in the last tier, "
            "so that longer prompts have no price; leave it out of the last tier"
        ],
    ),
}

SITE_ROWS: dict[str, Row] = {
    "zone missing": ((S, "gateway_zone"), ..., [f"gateway_zone: is missing; {A_ZONE}"]),
    "zone no name": (
        (S, "gateway_zone"),
        "trollllm xyz",
        [f'gateway_zone: is "trollllm xyz", not a domain name; {A_ZONE}'],
    ),
    "slip in a variable": (
        (S, "gateway_acme_directry"),
        "letsencrypt",
        ["gateway_acme_directry: is not a known variable; did you mean gateway_acme_directory?"],
    ),
    "ipv4 missing": ((S, "gateway_ipv4"), ..., [f"gateway_ipv4: is missing; {AN_IPV4}"]),
    "ipv4 no address": (
        (S, "gateway_ipv4"),
        "256.1.1.1",
        [f'gateway_ipv4: is "256.1.1.1", no IPv4 address; {AN_IPV4}'],
    ),
    "ipv4 a v6 address": ((S, "gateway_ipv4"), "::1", [f'gateway_ipv4: is "::1", no IPv4 address; {AN_IPV4}']),
    **{
        f"ipv4 of documentation, {address}": (
            (S, "gateway_ipv4"),
            address,
            [f"gateway_ipv4: is {address}, a placeholder (an address for documentation); {AN_IPV4}"],
        )
        for address in ("203.0.113.10", "192.0.2.1", "198.51.100.255")
    },
    "ipv4 of nobody": (
        (S, "gateway_ipv4"),
        "0.0.0.0",
        [f"gateway_ipv4: is 0.0.0.0, not the address of a host; {AN_IPV4}"],
    ),
    "ipv6 of documentation": (
        (S, "gateway_ipv6"),
        "2001:db8::1",
        [f"gateway_ipv6: is 2001:db8::1, a placeholder (an address for documentation); {AN_IPV6}"],
    ),
    "ipv6 no address": ((S, "gateway_ipv6"), "2a01::g", [f'gateway_ipv6: is "2a01::g", no IPv6 address; {AN_IPV6}']),
    "ttl": ((S, "gateway_dns_ttl"), 60, ["gateway_dns_ttl: is 60; give 300 to 3600 seconds"]),
    "timeouts": (
        (S, "gateway_timeouts"),
        {"idle": 4000},
        [f"gateway_timeouts: idle: idle is 4000, longer than total, 3600; {LADDER}"],
    ),
    "body": ((S, "gateway_max_body_mib"), "32", ['gateway_max_body_mib: is "32", text; write it without quotes: 32']),
    "provider missing": (
        (S, "gateway_dns_provider"),
        ...,
        ["gateway_dns_provider: is missing; give rfc2136, cloudflare, route53, hcloud or none"],
    ),
    "provider unknown, a slip": (
        (S, "gateway_dns_provider"),
        "cloudfare",
        ['gateway_dns_provider: is "cloudfare", which is not known; did you mean cloudflare?'],
    ),
    "provider unknown": (
        (S, "gateway_dns_provider"),
        "gandi",
        ['gateway_dns_provider: is "gandi", which is not known; give cloudflare, hcloud, none, rfc2136 or route53'],
    ),
    "provider a YAML boolean": (
        (S, "gateway_dns_provider"),
        False,
        ["gateway_dns_provider: is false, a boolean; give cloudflare, hcloud, none, rfc2136 or route53"],
    ),
    "credentials missing": (
        (S, "gateway_dns_credentials"),
        ...,
        [
            "gateway_dns_credentials: key_name: is missing; give the name of the TSIG key",
            "gateway_dns_credentials: key_secret: is missing; give the TSIG key's secret, in base64",
            f"gateway_dns_credentials: server: is missing; {A_PRIMARY}",
        ],
    ),
    "credentials with an unknown key": (
        (S, "gateway_dns_credentials", "api_token"),
        "hunter2hunter2",
        [
            "gateway_dns_credentials: api_token: is not a known key; "
            "known here: server, key_name, key_secret, key_algorithm, port, protocol"
        ],
    ),
    "TSIG server a name": (
        (S, "gateway_dns_credentials", "server"),
        "ns1.trollllm.xyz",
        [f'gateway_dns_credentials: server: is "ns1.trollllm.xyz", no IP address; {A_PRIMARY}'],
    ),
    "TSIG port": (
        (S, "gateway_dns_credentials", "port"),
        "5353",
        ['gateway_dns_credentials: port: is "5353", text; write it without quotes: 5353'],
    ),
    "TSIG protocol": (
        (S, "gateway_dns_credentials", "protocol"),
        "tls",
        ['gateway_dns_credentials: protocol: is "tls"; give tcp or udp, or leave it out for tcp'],
    ),
    "TSIG algorithm": (
        (S, "gateway_dns_credentials", "key_algorithm"),
        "sha256",
        [
            'gateway_dns_credentials: key_algorithm: is "sha256"; give hmac-md5, hmac-sha1, hmac-sha224, hmac-sha256, '
            "hmac-sha384 or hmac-sha512"
        ],
    ),
    "TSIG secret no base64": (
        (S, "gateway_dns_credentials", "key_secret"),
        "hunter2!",
        [
            "gateway_dns_credentials: key_secret: is not base64; "
            "give the secret as it stands in the name server's key file"
        ],
    ),
    "TSIG secret a placeholder": (
        (S, "gateway_dns_credentials", "key_secret"),
        "<secret>",
        ["gateway_dns_credentials: key_secret: is a placeholder; give the TSIG key's secret, in base64"],
    ),
    "name servers": (
        (S, "gateway_dns_nameservers"),
        ["198.18.77.2", "198.18.77.2:5353", "[2a01::1]:53", "2a01::1", "ns1.trollllm.xyz", "198.18.77.2:0"],
        [
            f'gateway_dns_nameservers: [4]: is "ns1.trollllm.xyz"; {A_SERVER}',
            f'gateway_dns_nameservers: [5]: is "198.18.77.2:0"; {A_SERVER}',
        ],
    ),
    "e-mail missing": ((S, "gateway_acme_email"), ..., [f"gateway_acme_email: is missing; {AN_EMAIL}"]),
    "e-mail no address": (
        (S, "gateway_acme_email"),
        "operator",
        [f'gateway_acme_email: is "operator", no e-mail address; {AN_EMAIL}'],
    ),
    **{
        f"e-mail a placeholder, {domain}": (
            (S, "gateway_acme_email"),
            f"me@{domain}",
            [f'gateway_acme_email: is "me@{domain}", a placeholder; {AN_EMAIL}'],
        )
        for domain in ("example.com", "example.org", "mail.example.net")
    },
    "directory unknown, a slip": (
        (S, "gateway_acme_directory"),
        "letsencrypt_staging",
        ['gateway_acme_directory: is "letsencrypt_staging", which is not known; did you mean letsencrypt-staging?'],
    ),
    "directory unknown": (
        (S, "gateway_acme_directory"),
        "zerossl",
        [f'gateway_acme_directory: is "zerossl", which is not known; {A_DIRECTORY}'],
    ),
    "directory not https": (
        (S, "gateway_acme_directory"),
        "http://acme.test/dir",
        [
            "gateway_acme_directory: is http://acme.test/dir, which is no https URL (it begins with http:); "
            f"{A_DIRECTORY}"
        ],
    ),
    "no account": ((S, "gateway_api_keys"), {}, [f"gateway_api_keys: has no account; {AN_ACCOUNT}"]),
    "keys missing": ((S, "gateway_api_keys"), ..., [f"gateway_api_keys: is missing; {AN_ACCOUNT}"]),
    "key short": (
        (S, "gateway_api_keys", "bob"),
        "a" * 24,
        [f"gateway_api_keys: bob: is 24 characters long; use 25 or more; {A_KEY}"],
    ),
    "key a placeholder": (
        (S, "gateway_api_keys", "bob"),
        "replace-me-with-a-key-of-32-characters",
        [f"gateway_api_keys: bob: is a placeholder; {A_KEY}"],
    ),
    "key mistyped": (
        (S, "gateway_api_keys", "bob"),
        ALICE.replace("AbCd", "AbCe", 1),
        [f"gateway_api_keys: bob: is mistyped: its checksum does not fit; copy the whole tg- key again, or {A_KEY}"],
    ),
    "key cut short": (
        (S, "gateway_api_keys", "bob"),
        ALICE[:-1],
        [f"gateway_api_keys: bob: is mistyped: its checksum does not fit; copy the whole tg- key again, or {A_KEY}"],
    ),
    "key with a line break": ((S, "gateway_api_keys", "bob"), f"{BOB}\n", [f"gateway_api_keys: bob: {STRAY}"]),
    "key shared": (
        (S, "gateway_api_keys", "bob"),
        ALICE,
        ["gateway_api_keys: bob: is the key of alice too; give each account a key of its own"],
    ),
    "key a number": ((S, "gateway_api_keys", "bob"), 1, [f"gateway_api_keys: bob: is a number; {A_KEY}"]),
    "operator token missing": (
        (S, "gateway_operator_token"),
        ...,
        [
            "gateway_operator_token: is missing; give the secret that opens the admin API "
            "(`PYTHONPATH=proxy_app python3 -m goproxy.cli key new` makes one)"
        ],
    ),
    "operator token short": (
        (S, "gateway_operator_token"),
        "b" * 31,
        [f"gateway_operator_token: is 31 characters long; use 32 or more; {A_KEY}"],
    ),
    "operator token a list": ((S, "gateway_operator_token"), [BOB], [f"gateway_operator_token: is a list; {A_KEY}"]),
    "credit for nobody": (
        (S, "gateway_opening_credits"),
        {"alicia": 10},
        ["gateway_opening_credits: alicia: is no account of gateway_api_keys; did you mean alice?"],
    ),
    "credit in quotes": (
        (S, "gateway_opening_credits"),
        {"alice": "10.5"},
        ['gateway_opening_credits: alice: is "10.5", text; write it without quotes: 10.5'],
    ),
    "credit below zero": (
        (S, "gateway_opening_credits"),
        {"alice": -1},
        ["gateway_opening_credits: alice: is -1; give 0 to 1000000 US dollars"],
    ),
    "database that is empty, which is SQLite": ((S, "gateway_database_url"), "", []),
    "database of another kind": (
        (S, "gateway_database_url"),
        "mysql://db/gateway",
        [
            "gateway_database_url: is no URL of PostgreSQL; "
            "give postgresql://USER:PASSWORD@HOST:PORT/NAME, or leave it out for SQLite on the host"
        ],
    ),
    **{
        f"database at {url}": ((S, "gateway_database_url"), f"postgresql://{url}", [f"gateway_database_url: {told}"])
        for url, told in {
            "a:b@localhost/x": f"leads to localhost, {ITS_OWN}",
            "a:b@127.0.0.1:5432/x": f"leads to 127.0.0.1, {ITS_OWN}",
            "a:b@[::1]:5432/x": f"leads to [::1], {ITS_OWN}",
            "a:hunter@2@db.corp/x": f"has an @ too many; {ENCODE}",
            "a:hunter@2:hunter@db.corp/x": f"cannot be read beyond postgresql://; {A_DATABASE}; {ENCODE}",
            "a:b@db.corp:port/x": f"cannot be read beyond postgresql://; {A_DATABASE}; {ENCODE}",
            "a:b@/x": f"has no host; {A_DATABASE}",
            "db.corp": f"has no database name; {A_DATABASE}",
            "a:b@db.corp:5432/?sslmode=require": f"has no database name; {A_DATABASE}",
        }.items()
    },
    "admin domain outside the zone": (
        (S, "gateway_admin_domain"),
        "admin.example.com",
        [
            'gateway_admin_domain: is "admin.example.com", outside the zone trollllm.xyz; '
            "give a name below trollllm.xyz, or leave it out"
        ],
    ),
    "admin domain that is the zone": (
        (S, "gateway_admin_domain"),
        "trollllm.xyz",
        ['gateway_admin_domain: is "trollllm.xyz", the zone itself; give a name below trollllm.xyz, or leave it out'],
    ),
    "account with a space": (
        (S, "gateway_api_keys", "b ob"),
        f"{BOB}2",
        [
            "gateway_api_keys: b ob: is no account name; "
            "use up to 64 letters, digits and . _ @ -, a letter or digit first"
        ],
    ),
    "CA certificate relative": (
        (S, "gateway_extra_ca_certificates"),
        ["ca.pem"],
        [
            'gateway_extra_ca_certificates: [0]: is "ca.pem", not absolute; '
            'write "{{ inventory_dir }}/..." for a file of the inventory'
        ],
    ),
    "CA certificate absent": (
        (S, "gateway_extra_ca_certificates"),
        ["/nonexistent/ca.pem"],
        [
            'gateway_extra_ca_certificates: [0]: is "/nonexistent/ca.pem", which cannot be read (No such file or '
            "directory); give a file that holds CA certificates in PEM form"
        ],
    ),
    "CA certificate whose name a shell reads otherwise": (
        (S, "gateway_extra_ca_certificates"),
        ["/ca/corp\\root.pem"],
        [
            'gateway_extra_ca_certificates: [0]: is "/ca/corp\\\\root.pem", a name that update-ca-certificates cannot '
            "read; rename the file"
        ],
    ),
    "image with a space": (
        (S, "gateway_base_image"),
        "debian trixie",
        [
            'gateway_base_image: is "debian trixie", with white space in it; '
            "give the name of an image, like debian:trixie-slim"
        ],
    ),
    "directory of the host": (
        (S, "gateway_dir"),
        "/",
        ['gateway_dir: is "/"; give an absolute path of its own, like /opt/trollllm, of letters, digits, . _ and -'],
    ),
    "directory that a shell and a mount would read otherwise": (
        (S, "gateway_dir"),
        "/opt/my $llm:gate",
        [
            'gateway_dir: is "/opt/my $llm:gate"; '
            "give an absolute path of its own, like /opt/trollllm, of letters, digits, . _ and -"
        ],
    ),
}


def checked(inventory: Inventory) -> Checked:
    """On a fixed day; the problems as the lines that the operator reads."""
    today = datetime.date(2026, 6, 1)
    upstreams, problems = check(inventory.upstreams, inventory.price_book, inventory.settings, today=today)
    return upstreams, [str(problem) for problem in problems]


def test_a_sound_inventory_has_no_problem(inventory: Inventory) -> None:
    assert checked(inventory)[1] == []


@pytest.mark.parametrize(("path", "value", "expected"), UPSTREAM_ROWS.values(), ids=UPSTREAM_ROWS)
def test_what_is_wrong_with_an_upstream_is_told_with_what_is_right(
    inventory: Inventory, path: tuple[str | int, ...], value: Any, expected: list[str]
) -> None:
    assert checked(inventory.spoil(path, value))[1] == expected


@pytest.mark.parametrize(("path", "value", "expected"), PRICE_ROWS.values(), ids=PRICE_ROWS)
def test_what_is_wrong_with_the_price_book_is_told_with_what_is_right(
    inventory: Inventory, path: tuple[str | int, ...], value: Any, expected: list[str]
) -> None:
    assert checked(inventory.spoil(path, value))[1] == expected


@pytest.mark.parametrize(("path", "value", "expected"), SITE_ROWS.values(), ids=SITE_ROWS)
def test_what_is_wrong_with_the_sites_variables_is_told_with_what_is_right(
    inventory: Inventory, path: tuple[str | int, ...], value: Any, expected: list[str]
) -> None:
    found = checked(inventory.spoil(path, value))[1]
    assert [line for line in found if not line.startswith(("ohmygpt", "openhands"))] == expected


def test_a_domain_is_an_upstreams_or_the_admin_apis(inventory: Inventory) -> None:
    """nginx would serve one of the two, and which of them nobody could tell."""
    found = checked(inventory.spoil((S, "gateway_admin_domain"), "chat.trollllm.xyz"))
    assert found[1] == [
        "openhands: domain: is chat.trollllm.xyz, gateway_admin_domain too; give one of them another name"
    ]
    assert [upstream["name"] for upstream in found[0]] == ["ohmygpt"]


PLACEHOLDERS = [
    "CHANGE-ME",
    "changeme",
    "change_me",
    "<your-key>",
    "<...>",
    "xxx",
    "XXXXXXXX",
    "skXXXXXXXX",
    "sk-xxxxxxxx",
    "sk-xxx",
    "example",
    "my-example-key",
    "todo",
    "TODO:",
    "replace",
    "replace-me",
    "sk-replace-this",
    "your-api-key",
    "sk-your-key-here",
    "***",
    "...",
    "placeholder",
    "secret",
]


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_a_placeholder_is_no_secret(inventory: Inventory, value: str) -> None:
    inventory.spoil((*U, "api_key"), value)
    assert checked(inventory)[1] == [f"openhands: api_key: is a placeholder; {A_SECRET}"]


@pytest.mark.parametrize("value", [PROVIDER_KEY, ALICE, "sk-ant-api03-xXxToDo9f8e", "sk-AAyourBBreplacement1"])
def test_a_random_secret_is_no_placeholder(inventory: Inventory, value: str) -> None:
    assert checked(inventory.spoil((*U, "api_key"), value))[1] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*U, "domain"), "trollllm.xyz"),  # the zone's apex
        ((*U, "domain"), "a.b.trollllm.xyz"),
        ((*U, "port"), 1024),
        ((*U, "port"), 65535),
        ((*U, "models", "opus", "multiplier"), 1.0666666666666667),  # as a template may have computed it
        ((*U, "models", "opus", "multiplier"), 1.06),  # the band's ends belong to it
        ((*U, "multiplier_band"), [1, 2]),
        ((*P, 0, "web_search"), 0),
        ((*P, 0, "web_search"), 10),
        ((*U, "endpoints", "openai"), "https://192.168.1.1:8443/v1/chat/completions"),
        ((*U, "endpoints", "openai"), "https://a.tld/chat/completions"),  # DeepSeek has no version in it
        ((*U, "endpoints", "anthropic"), "https://a.tld/coding/v1/messages"),
        ((*U, "ttl"), 3600),
        ((*U, "timeouts"), {"connect": 300, "first_byte": 300, "idle": 300, "total": 300}),
        ((*U, "max_body_mib"), 512),
        ((*U, "wallet"), "openhands-only"),
        ((*U, "include_usage"), False),
        ((*U, "chat_limit"), "either"),
        ((*U, "chat_limit"), "max_completion_tokens"),
        ((*U, "staleness_seconds"), 1),
        ((*U, "staleness_seconds"), 604800),
        ((*U, "processes"), 16),
        ((*U, "disconnect"), {}),
        ((*U, "disconnect"), {"policy": "abort", "seconds": 3600, "max_mib": 1024, "concurrent": 10000}),
        ((*B, "context_tokens"), 64000),
        ((*B, "max_output_tokens"), 200000),
        ((*P, 0, "reasoning"), 0.5),
        ((*P, 0, "input"), 0),
        ((*P, 0, "input"), 0.001),
        ((*P, 0, "effective_from"), datetime.date(2026, 1, 1)),  # what YAML makes of it without quotes
        ((S, "gateway_ipv6"), ""),
        ((S, "gateway_ipv6"), None),
        ((S, "gateway_ipv6"), "2a01:4f8::1"),
        ((S, "gateway_acme_directory"), "letsencrypt-staging"),
        ((S, "gateway_acme_directory"), "https://acme.test:14000/dir"),
        ((S, "gateway_files"), "a variable of somebody else"),
        ((S, "gateway_dns_nameservers"), []),
        *(
            ((S, "gateway_database_url"), f"postgresql://{url}")
            for url in (
                "a:b@db/x",  # a container of the network
                "a:b%40c@db.corp:5432/x?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt",
                "a:b/c?d#e:f@db.corp/x",  # as SQLAlchemy reads it
                "a@198.18.77.1:40000/ledger",
                "a:b@[2a01:4f8::1]:5432/x",
                "a:b@/?host=db.corp&dbname=x",
            )
        ),
        ((S, "gateway_extra_ca_certificates"), []),
    ],
)
def test_what_is_allowed_has_no_problem(inventory: Inventory, path: tuple[str | int, ...], value: Any) -> None:
    assert checked(inventory.spoil(path, value))[1] == []


@pytest.mark.parametrize(
    ("provider", "credentials", "expected"),
    [
        ("cloudflare", {"api_token": "0f9e8d7c"}, []),
        ("cloudflare", {}, [f"api_token: is missing; {A_TOKEN}"]),
        ("cloudflare", {"api_token": "CHANGE-ME"}, [f"api_token: is a placeholder; {A_TOKEN}"]),
        ("cloudflare", {"api_token": "hunter2 "}, [f"api_token: {STRAY}"]),
        ("hcloud", {"api_token": "0f9e8d7c"}, []),
        ("hcloud", {"token": "0f9e8d7c"}, [
            "api_token: is missing; give an API token of the project",
            "token: is not a known key; did you mean api_token?",
        ]),
        ("rfc2136", {**SOUND.settings["gateway_dns_credentials"], "port": 5353, "protocol": "udp"}, []),
        ("route53", None, []),
        ("route53", {"profile": "dns"}, []),
        ("route53", {"access_key": "AKIA0", "secret_key": "0f9e"}, []),
        ("route53", {"access_key": "AKIA0"}, ["secret_key: is missing; give it with access_key, or leave out both"]),
        ("route53", {"secret_key": "0f9e"}, ["access_key: is missing; give it with secret_key, or leave out both"]),
        ("none", None, []),
        ("none", {"api_token": "from before"}, []),
        ("cloudflare", "hunter2", ["is text; give a mapping of api_token"]),
    ],
)  # fmt: skip
def test_dns_credentials(inventory: Inventory, provider: str, credentials: Any, expected: list[str]) -> None:
    inventory.spoil((S, "gateway_dns_provider"), provider).spoil((S, "gateway_dns_credentials"), credentials)
    assert checked(inventory)[1] == [f"gateway_dns_credentials: {line}" for line in expected]


def test_extra_ca_certificates_are_read(inventory: Inventory, tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = authority.cert_pem.bytes()
    key = trustme.Blob(authority.private_key_pem.bytes())
    contents = {
        "good.pem": pem + pem,
        "commented.pem": b"# our proxy\n" + pem,
        "key.pem": key.bytes() + pem,
        "text.pem": b"not a certificate\n",
        "damaged.pem": pem.replace(b"\nMII", b"\nMIA", 1),
        "cut.pem": pem[:-40],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    inventory.spoil((S, "gateway_extra_ca_certificates"), [str(tmp_path / name) for name in contents])
    right = "give a file that holds CA certificates in PEM form"
    damaged = "which holds a damaged PEM certificate"
    assert checked(inventory)[1] == [
        f'gateway_extra_ca_certificates: [2]: is "{tmp_path}/key.pem", which holds a private key; {right}',
        f'gateway_extra_ca_certificates: [3]: is "{tmp_path}/text.pem", which holds no PEM certificate; {right}',
        f'gateway_extra_ca_certificates: [4]: is "{tmp_path}/damaged.pem", {damaged}; {right}',
        f'gateway_extra_ca_certificates: [5]: is "{tmp_path}/cut.pem", {damaged}; {right}',
    ]


def test_every_problem_at_once_the_site_first(inventory: Inventory) -> None:
    inventory.spoil((*U, "port"), 80).spoil((*U, "ttl"), 1).spoil((*P, 0, "input"), -1)
    inventory.spoil((S, "gateway_ipv4"), "x").spoil(("upstreams", "ohmygpt", "api_key"), "xxx")
    upstreams, problems = checked(inventory)
    assert [problem.rpartition("; ")[0] for problem in problems] == [
        'gateway_ipv4: is "x", no IPv4 address',
        "goproxy_price_book: opus.prices[0].input: is -1",
        "ohmygpt: api_key: is a placeholder",
        "openhands: port: is 80, which the edge has",
        "openhands: ttl: is 1",
    ]
    assert upstreams == []


def test_a_problem_of_one_upstream_leaves_the_other_normalised(inventory: Inventory) -> None:
    assert [upstream["name"] for upstream in checked(inventory.spoil((*U, "ttl"), 1))[0]] == ["ohmygpt"]


def test_clashes_are_told_beside_other_problems(inventory: Inventory) -> None:
    inventory.spoil((*U, "port"), 8005).spoil((*U, "domain"), "chat2.trollllm.xyz").spoil((*U, "models"), ...)
    assert [problem.rpartition("; ")[0] for problem in checked(inventory)[1]] == [
        "openhands: domain: is chat2.trollllm.xyz, the domain of ohmygpt too",
        "openhands: models: is missing",
        "openhands: port: is 8005, the port of ohmygpt too",
    ]


def test_two_variables_for_one_name(inventory: Inventory) -> None:
    one = {**inventory.upstreams["openhands"], "port": 8006, "domain": "a.trollllm.xyz"}
    other = {**one, "port": 8007, "domain": "b.trollllm.xyz"}
    inventory.upstreams.update({"my_llm": one, "my-llm": other})
    assert checked(inventory)[1] == [
        "my-llm: is the name of two upstreams, goproxy_upstream__my-llm and goproxy_upstream__my_llm; "
        "rename one of the variables"
    ]


def test_the_control_planes_name_is_taken(inventory: Inventory) -> None:
    inventory.upstreams["backend"] = {**inventory.upstreams["openhands"], "port": 8006, "domain": "a.trollllm.xyz"}
    assert checked(inventory)[1] == ["backend: is the name of the control plane; give the upstream another name"]


def test_no_upstream_says_how_to_add_one(inventory: Inventory) -> None:
    inventory.upstreams.clear()
    assert checked(inventory) == (
        [],
        [
            "upstreams: there is none; add group_vars/all/upstreams/<name>.yml with the variable "
            "goproxy_upstream__<name> (inventory/example has two to copy)"
        ],
    )


def with_domains(inventory: Inventory, count: int) -> Inventory:
    for number in range(count):
        name = f"n{number}"
        own = {**inventory.upstreams["openhands"], "domain": f"{name}.trollllm.xyz", "port": 9000 + number}
        inventory.upstreams[name] = own
    del inventory.upstreams["openhands"], inventory.upstreams["ohmygpt"]
    return inventory


MORE_THAN_FIT = (
    "upstreams: have {} and Let's Encrypt puts 100 on a certificate at most; move upstreams to a second gateway "
    "(a host with an inventory and a gateway_zone of its own), or order from another authority (gateway_acme_directory)"
)


@pytest.mark.parametrize("directory", [..., "letsencrypt-staging", ACME_DIRECTORIES["letsencrypt"]])
def test_one_certificate_has_room_for_a_hundred_names(inventory: Inventory, directory: Any) -> None:
    """The role certbot refuses more, when the records are written."""
    if directory is not ...:
        inventory.spoil((S, "gateway_acme_directory"), directory)
    with_domains(inventory, 100)
    assert checked(inventory)[1] == []
    inventory.spoil((S, "gateway_admin_domain"), "admin.trollllm.xyz")
    assert checked(inventory)[1] == [MORE_THAN_FIT.format("101 names, gateway_admin_domain's included,")]
    inventory.spoil((S, "gateway_admin_domain"), "")
    inventory.upstreams["last"] = {**inventory.upstreams["n0"], "domain": "last.trollllm.xyz", "port": 9999}
    assert checked(inventory)[1] == [MORE_THAN_FIT.format("101 names,")]


def test_another_authority_has_limits_of_its_own(inventory: Inventory) -> None:
    inventory.spoil((S, "gateway_acme_directory"), "https://ca.trollllm.xyz/directory")
    assert checked(with_domains(inventory, 101))[1] == []


def test_the_role_that_orders_knows_the_same_limit() -> None:
    role = yaml.safe_load((REPOSITORY / "roles/certbot/vars/main.yml").read_text())
    assert role["__certbot_names_max"] == MOST_NAMES
    assert role["__certbot_directories"] == ACME_DIRECTORIES


def told(inventory: Inventory, temp_size: Any) -> list[str]:
    return [str(problem) for problem in oversized(inventory.upstreams, inventory.settings, temp_size)]


def test_a_body_must_fit_into_the_edge(inventory: Inventory) -> None:
    """The role nginx refuses it, too, when proxies and backend have been rolled out."""
    right = "give 384 at most, or raise nginx_temp_size, and nginx_memory_limit with it"
    assert told(inventory, "384m") == []
    inventory.spoil((S, "gateway_max_body_mib"), 384)
    assert told(inventory, "384m") == []
    inventory.spoil((S, "gateway_max_body_mib"), 512).spoil(("upstreams", "ohmygpt", "max_body_mib"), 385)
    assert told(inventory, "384m") == [
        f"gateway_max_body_mib: is 512, more than the edge has room for (nginx_temp_size is 384m); {right}",
        f"ohmygpt: max_body_mib: is 385, more than the edge has room for (nginx_temp_size is 384m); {right}",
    ]
    assert told(inventory, "512m") == []
    inventory.spoil((*U, "max_body_mib"), 8).spoil(("upstreams", "ohmygpt", "max_body_mib"), 8)
    assert told(inventory, "384m") == []  # nobody has the site's


@pytest.mark.parametrize(
    ("temp_size", "room", "remedy"),
    [
        ("16M", 16, "give 16 at most, or raise"),
        (16 * 1024 * 1024, 16, "give 16 at most, or raise"),
        ("16384k", 16, "give 16 at most, or raise"),
        ("4194303", 3, "give 3 at most, or raise"),
        ("512k", 0, "raise"),
    ],
)
def test_the_room_may_be_written_in_several_ways(inventory: Inventory, temp_size: Any, room: int, remedy: str) -> None:
    inventory.spoil(("upstreams", "ohmygpt", "max_body_mib"), room or 1)
    site, *of_upstreams = told(inventory, temp_size)
    assert site == (
        f"gateway_max_body_mib: is 32, more than the edge has room for (nginx_temp_size is {temp_size}); "
        f"{remedy} nginx_temp_size, and nginx_memory_limit with it"
    )
    assert len(of_upstreams) == (0 if room else 1)


@pytest.mark.parametrize("temp_size", ["50%", "a lot", None, True, Unresolved("refers to x", "define it"), "1g"])
def test_room_that_only_the_host_knows_is_not_judged(inventory: Inventory, temp_size: Any) -> None:
    """Nor what role_options tells of, nor a body that is wrong in itself."""
    inventory.spoil((S, "gateway_max_body_mib"), 512).spoil((*U, "max_body_mib"), 2000)
    assert told(inventory, temp_size) == []


def test_the_admin_api_takes_larger_bodies(inventory: Inventory) -> None:
    role = yaml.safe_load((REPOSITORY / "roles/nginx/vars/main.yml").read_text())
    assert role["__nginx_admin_body_mib"] == ADMIN_BODY_MIB
    assert told(inventory, "32m") == []
    assert told(inventory.spoil((S, "gateway_admin_domain"), "admin.trollllm.xyz"), "64m") == []
    assert told(inventory, "32m") == [
        "nginx_temp_size: is 32m, and a body of the admin API may have 64 MiB; "
        "give 64m or more, and raise nginx_memory_limit with it, or leave gateway_admin_domain out"
    ]


def test_no_price_book(inventory: Inventory) -> None:
    inventory.price_book = None
    assert checked(inventory)[1][0] == (
        "goproxy_price_book: is missing; add group_vars/all/price_book.yml (inventory/example has one)"
    )


@pytest.mark.parametrize("name", ["goproxy_upstream_third", "goproxy_upstreams__third", "GOPROXY_upstream___third"])
def test_an_upstream_under_a_wrong_name_is_not_left_out_silently(inventory: Inventory, name: str) -> None:
    problems = misnamed({name: inventory.upstreams["openhands"]})
    assert [str(problem) for problem in problems] == [
        f"{name}: looks like an upstream, and is not one; name it goproxy_upstream__third"
    ]


def test_a_hyphen_in_the_variable_would_not_be_found(inventory: Inventory) -> None:
    """The playbooks look for goproxy_upstream__my_llm when the upstream is my-llm."""
    problems = misnamed({"goproxy_upstream__my-llm": inventory.upstreams["openhands"]})
    assert [str(problem) for problem in problems] == [
        "goproxy_upstream__my-llm: has '-' in its name; write goproxy_upstream__my_llm: it becomes my-llm"
    ]


def test_variables_that_only_sound_alike_are_left_alone(inventory: Inventory) -> None:
    variables = {
        "goproxy_upstreams": [],
        "goproxy_upstream_api_keys": {"openhands": "x"},
        "goproxy_upstream__a": inventory.upstreams["openhands"],
    }
    assert misnamed(variables) == []


def test_the_normalised_upstream(inventory: Inventory) -> None:
    inventory.upstreams["my_llm"] = {**inventory.upstreams.pop("openhands"), "multiplier_band": [1, 1.08]}
    opus = {
        "name": "Claude Opus 4.5",
        "id": "claude-opus-4-5-20251101",
        "aliases": ["claude-opus-4-5"],
        "context_tokens": 200000,
        "max_output_tokens": 64000,
        "prices": [
            {
                "effective_from": "2025-11-24",
                "tiers": [
                    {
                        "up_to_prompt_tokens": None,
                        "input": 5,
                        "output": 25,
                        "cache_write_5m": 6.25,
                        "cache_write_1h": 10,
                        "cache_read": 0.5,
                    }
                ],
            },
            {"effective_from": "2026-01-01", "tiers": [{"up_to_prompt_tokens": None, "input": 4, "output": 20}]},
        ],
    }
    gemini = {
        "name": "Gemini 3 Pro Preview",
        "id": "gemini-3-pro-preview",
        "aliases": [],
        "context_tokens": 1048576,
        "max_output_tokens": 65536,
        "prices": [
            {
                "effective_from": "2025-11-18",
                "tiers": [
                    {"up_to_prompt_tokens": 200000, "input": 2, "output": 12},
                    {"up_to_prompt_tokens": None, "input": 4, "output": 18},
                ],
            }
        ],
    }
    assert checked(inventory) == (
        [
            {
                "name": "my-llm",
                "domain": "chat.trollllm.xyz",
                "port": 8004,
                "service": "goproxy-my-llm",
                "uid": 18004,
                "ttl": 300,
                "endpoints": [
                    {
                        "name": "my-llm-anthropic",
                        "protocol": "anthropic",
                        "base_url": "https://llm-proxy.app.all-hands.dev/v1/messages",
                    },
                    {
                        "name": "my-llm-openai",
                        "protocol": "openai",
                        "base_url": "https://llm-proxy.app.all-hands.dev/v1/chat/completions",
                    },
                ],
                "multiplier_band": [1, 1.08],
                "models": [
                    {**opus, "upstream_model_id": "claude-opus-4-5-20251101", "multiplier": 1.08},
                    {**gemini, "upstream_model_id": "gemini-3-pro-preview", "multiplier": 1.06},
                ],
                "timeouts": {"connect": 10, "first_byte": 300, "idle": 120, "total": 3600},
                "max_body_mib": 32,
                "wallet": None,
                "include_usage": True,
                "chat_limit": "either",
                "staleness_seconds": 3600,
                "processes": 1,
                "disconnect": {"policy": "drain", "seconds": 600, "max_mib": 16, "concurrent": 256},
            },
            {
                "name": "ohmygpt",
                "domain": "chat2.trollllm.xyz",
                "port": 8005,
                "service": "goproxy-ohmygpt",
                "uid": 18005,
                "ttl": 600,
                "endpoints": [
                    {
                        "name": "ohmygpt-anthropic",
                        "protocol": "anthropic",
                        "base_url": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg/v1/messages",
                    }
                ],
                "multiplier_band": [1.04, 1.1],
                "models": [{**opus, "upstream_model_id": "omg/opus", "multiplier": 1.1}],
                "timeouts": {"connect": 10, "first_byte": 300, "idle": 120, "total": 1800},
                "max_body_mib": 8,
                "wallet": "omg",
                "include_usage": True,
                "chat_limit": "either",
                "staleness_seconds": 3600,
                "processes": 1,
                "disconnect": {"policy": "abort", "seconds": 600, "max_mib": 16, "concurrent": 256},
            },
        ],
        [],
    )


def test_the_sites_limits_reach_the_upstreams_that_have_none_of_their_own(inventory: Inventory) -> None:
    inventory.settings.update(gateway_dns_ttl=900, gateway_timeouts={"idle": 60}, gateway_max_body_mib=16)
    ohmygpt, openhands = checked(inventory)[0]
    assert (openhands["ttl"], openhands["timeouts"]["idle"], openhands["max_body_mib"]) == (900, 60, 16)
    assert (ohmygpt["ttl"], ohmygpt["max_body_mib"]) == (600, 8)
    assert ohmygpt["timeouts"] == {"connect": 10, "first_byte": 300, "idle": 60, "total": 1800}


def test_no_secret_is_in_what_comes_out(inventory: Inventory) -> None:
    upstreams, problems = checked(inventory)
    inventory.spoil((*U, "api_key"), f"{PROVIDER_KEY}\n").spoil((S, "gateway_api_keys", "alice"), [ALICE])
    inventory.spoil((S, "gateway_dns_credentials", "key_secret"), "hunter2!")
    broken, told = checked(inventory)
    text = f"{upstreams}{problems}{broken}{told}"
    assert len(told) == 3
    assert not [secret for secret in (PROVIDER_KEY, ALICE, BOB, "hunter2", "c2VjcmV0") if secret in text]


def test_today_is_the_day_by_the_clock(inventory: Inventory) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
    inventory.spoil((*P, 0, "effective_from"), tomorrow.isoformat())
    assert check(inventory.upstreams, inventory.price_book, inventory.settings)[1] == []
    inventory.spoil((*P, 1, "effective_from"), (tomorrow + datetime.timedelta(days=1)).isoformat())
    assert len(check(inventory.upstreams, inventory.price_book, inventory.settings)[1]) == 2
