"""How many input tokens a request can come to, and how many searches of the web, told by its body alone.

The tokenizers of the providers take at least one byte of text for a token, and what they put around messages is shorter
than the JSON around them: the bytes of the body bound the tokens of what is written in it. Three things they do not
bound, and each is looked for at the places where the protocols have it:

- an image counts by its size in pixels, not in bytes: its base64 is left out and IMAGE_TOKENS stand for it;
- tools bring words of the provider's own with them, within TOOLS_TOKENS for all and TOOL_TOKENS for each built-in one;
- what is fetched, unpacked or found by the provider can be of any length: a reference to an image or a file, a
  PDF or audio (whatever their bytes), a conversation that it holds, tools that it runs, and every kind of block that is
  not known here.
  Then `is_open` is true, and the model's context is the bound. Where an estimate is wanted and not a bound, that would
  be far too much: in `tokens` IMAGE_TOKENS stand for such an image, and REMOTE_TOKENS for anything else of that sort.

What a request of OpenAI's multi-agent beta comes to is bounded by no context, and is refused (request_body.py).

A provider searches where it is asked to, be it by a tool that it runs: as often as the `max_uses` of Anthropic's tool
allows. Models that search unasked are not told apart here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

IMAGE_TOKENS = 10_000
"""Twice what an image comes to with Anthropic at most ("Vision": 4,784)."""

LARGEST_IMAGE_TOKENS = 36_000
"""What one comes to with OpenAI, who takes it as it is unless the client says otherwise: up to 30,000 patches, each 1.2
tokens ("Images and vision"; gpt-5.6). Held for, but no image that is seen every day.
Older models that count tiles with a multiplier (gpt-4o-mini) come to more, at a price that is as much lower."""

_RESIZED = ("low", "high")
"""By these details OpenAI makes it smaller first."""

REMOTE_TOKENS = 40_000
"""An estimate takes a quarter of it (ledger.py): a PDF of a few pages, five minutes of audio, what a search finds."""

TOOLS_TOKENS = 1_000
"""Anthropic's system prompt for tools has up to 700 ("Tool use", pricing)."""

TOOL_TOKENS = 2_000
"""A built-in tool that the client runs: the computer's has 735 and a prompt of 499 of its own."""

_TOOLS_OF_A_SET = 5

_TEXT = frozenset(
    {
        *("text", "thinking", "redacted_thinking", "refusal", "search_result", "compaction"),
        *("input_text", "output_text", "summary_text", "reasoning_text"),
        *("tool_use", "server_tool_use", "mcp_tool_use", "tool_result", "tool_reference"),
        *("tool_addition", "tool_removal", "mcp_tool_listing", "fallback"),
    }
)
"""Blocks whose words stand in them."""

_ADDING = ("tool_addition", "compaction")
"""Blocks of Anthropic's messages in which tools may be defined."""

_TEXT_ENDINGS = (
    *("_tool_result", "_tool_result_error", "web_fetch_result", "execution_result", "execution_output"),
    *("_view_result", "_create_result", "_str_replace_result"),
)
"""Endings of the types of results that the provider's own tools gave; a client sends them again with the conversation,
and they are text, too."""

_ITEMS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("function_call", "mcp_call"), ("arguments",)),
    "custom_tool_call": ("input",),
    **dict.fromkeys(("function_call_output", "custom_tool_call_output", "local_shell_call_output"), ("output",)),
    "apply_patch_call_output": ("status",),
    "apply_patch_call": ("operation",),
    **dict.fromkeys(("local_shell_call", "shell_call"), ("action",)),
    "computer_call": ("action", "actions"),
    **dict.fromkeys(("shell_call_output", "computer_call_output"), ("output",)),
    "tool_search_call": ("arguments",),
    "reasoning": ("encrypted_content", "content"),
    **dict.fromkeys(("mcp_list_tools", "additional_tools", "tool_search_output"), ("tools",)),
    **dict.fromkeys(("mcp_approval_request", "mcp_approval_response"), ("id", "approve")),
}
"""Of the Responses protocol's input, beside messages: those whose words stand in them, if they have one of these
fields. Without it they refer to what the provider holds, as all others do."""

_OF_A_SHELL = frozenset({"stdout", "stderr", "outcome", "created_by"})
"""Results of a shell call have no `type`; they are known by these fields."""

_IMAGES = ("image", "image_url", "input_image", "computer_screenshot")
_NAMED_TYPE = frozenset({"format", "mime_type", "content_type"})
_PACKING = frozenset({"source", "file", "input_audio", "file_data"})
"""Where a block has what comes with the request, if it is no image."""

MOST_BLOCKS = 25_000
"""No more may there be: everybody waits while they are looked at. A conversation of 2,000 messages has a third."""

_OWN_TOOLS = ("custom", "function", "namespace")
"""A namespace only has tools in it, each of which is looked at."""
_OWN_TOOLS_HAVE = frozenset({"name", "function", "input_schema"})
"""What tells a tool of the client's that has no type."""
_GOOGLES_TOOLS = frozenset(
    {
        *("googleSearch", "googleSearchRetrieval", "enterpriseWebSearch", "googleMaps", "urlContext", "codeExecution"),
        *("google_search", "google_search_retrieval", "enterprise_web_search", "google_maps", "url_context"),
        *("code_execution", "computerUse", "computer_use"),
    }
)
"""LiteLLM takes them of any tool, be it a function, too."""

SEARCHES = 20
"""Of a request or a tool that says no number: LiteLLM asks Anthropic for up to 10, who has no limit of its own."""

_MOST_SEARCHES = 1_000
"""Whatever `max_uses` says."""

_COUNTING_TOOLS = ("web_search_", "web_fetch_")
_MAX_USES = "max_uses"
"""Anthropic's, which have it; others pass over it."""

_SEARCHING = ("web_search_options", "plugins", "enable_search", "search_parameters")
"""Fields by which a request asks for searches."""

_BUILT_IN_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_toolset_")
_BUILT_IN_WHOLE = ("local_shell", "apply_patch", "computer")
_OPENING = (
    *("mcp_servers", "container", "web_search_options", "plugins", "cached_content"),
    *("enable_search", "vl_high_resolution_images"),  # DashScope's
    *("data_sources", "search_parameters", "mm_processor_kwargs"),  # Azure's, xAI's, vLLM's
    *("vector_store_ids", "previous_response_id", "conversation"),  # LiteLLM's, OpenAI's
)
"""Fields by which a request asks for something that the provider gets from elsewhere, or sees in more tokens."""

OPENING_FIELDS = frozenset({*_OPENING, "context_management", "thread", "reasoning", "extra_body"})
"""Without any of these there is nothing to look for at the top level."""

LOOKED_AT = OPENING_FIELDS | {"tools", "input"}
"""Without any of these, and without blocks, a request comes to its bytes; nearly every one that no agent sends."""


READ_WITHIN = frozenset(
    {
        *("type", "content", "source", "output", "audio", "images", "image_url", "input_audio", "file", "file_data"),
        *("url", "data", "media_type", "detail", "tools", "tool", "tool_changes", "definition"),
        *("model", "server_url", "execution", "environment"),
        *_GOOGLES_TOOLS,
    }
)
"""Names that are read in messages, blocks and tools. Without one of them a request could come to less than it does."""

_HOLDING = ("source", "image_url", "input_audio", "file", "environment", "tool", "tool_changes")
"""Of these, those of objects that are looked into."""

_PLAIN_MESSAGE = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content"})
_PLAIN_NAMES = _PLAIN_MESSAGE | {
    *("type", "text", "id", "input", "tool_use_id", "is_error", "cache_control", "thinking", "signature", "data"),
    *("function", "description", "input_schema", "parameters", "strict", "audio", "images", "annotations"),
    *("status", "call_id", "arguments", "output", "summary", "encrypted_content"),
}
"""What nearly all have; of those that are read, as they must be written, and without _HOLDING."""


class InputEstimate(NamedTuple):
    """What the input comes to."""

    tokens: int
    most: int
    """The bound, unless it is open."""
    is_open: bool
    searches: int
    """Of the web, by the provider."""


def estimate_input(
    request: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], size: int
) -> InputEstimate:
    """The estimate for a request of `size` bytes with these fields at its top level, and what was found in it.

    Takes any JSON.
    """
    tokens, larger, remote, is_open, searches = size, 0, 0, False, 0
    if not OPENING_FIELDS.isdisjoint(request):
        spread = request.get("extra_body")
        remote = _asks(request, _OPENING) + _continues(request) + _hides_more(spread)
        for fields in (request, spread) if isinstance(spread, dict) else (request,):
            remote += _compacts(fields) + _reasons_in_passes(fields)
        if _asks(request, _SEARCHING) or _asks(spread, _SEARCHING):
            searches = SEARCHES
    for block in blocks:
        kind = block.get("type")
        if kind.__class__ is str and kind in _TEXT:
            continue
        if kind in _IMAGES:
            packed = _image(block)
            tokens += IMAGE_TOKENS - len(packed or "")
            larger += _may_be_larger(block)
            is_open = is_open or packed is None
        elif not _has_words(block):
            if not _PACKING.isdisjoint(block):
                tokens -= len(_data(block))
            remote += 1
    if tools:
        tokens += TOOLS_TOKENS
        for tool in tools:
            kind = tool.get("type")
            if not _is_own(tool, kind):
                remote += 1
                searches += _uses(tool)
            elif _is_built_in(kind):
                tokens += TOOL_TOKENS * (_TOOLS_OF_A_SET if "_toolset_" in kind else 1)
    tokens += remote * REMOTE_TOKENS
    most = tokens + larger * (LARGEST_IMAGE_TOKENS - IMAGE_TOKENS)
    return InputEstimate(tokens, most, is_open or remote > 0, searches)


def blocks_of(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the messages consist of, and what stands within results of tools and documents.

    More than there may be, if there are more: no further is looked.
    """
    blocks: list[Mapping[str, Any]] = []
    waiting: list[object] = []
    for item in objects(request.get("input")):
        if item.get("type") not in (None, "message") or "content" not in item:
            blocks.append(item)
        waiting += (item.get("content"), item.get("output"))
    for message in objects(request.get("messages")):
        if message.get("audio") or message.get("images"):  # what the model said before, and what LiteLLM takes so
            blocks.append({"type": "audio"})
        waiting.append(message.get("content"))
    while waiting and len(blocks) <= MOST_BLOCKS:
        items = waiting.pop()
        for block in items if items.__class__ is list else (items,):
            if block.__class__ is dict:
                blocks.append(block)
                if "content" in block:
                    waiting.append(block["content"])
                if "source" in block and (source := block["source"]).__class__ is dict:
                    waiting.append(source.get("content"))
    return blocks


def are_words(request: Mapping[str, Any]) -> bool:
    """Whether each message has one text alone, as in most requests that nobody's agent sends."""
    messages = request.get("messages")
    if messages.__class__ is not list or "input" in request:
        return False
    for message in messages:
        if message.__class__ is not dict or message.get("content").__class__ is not str:
            return False
        if (len(message) != 2 or "role" not in message) and not message.keys() <= _PLAIN_MESSAGE:
            return False
    return True


def names_within(
    request: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    """The names in messages, blocks and tools, if there are others than those that nearly all have."""
    walked = [*blocks, *tools, *objects(request.get("messages"))]
    if "input" in request:
        walked += objects(request["input"])
    names: set[str] = set().union(*walked)
    if names <= _PLAIN_NAMES:
        return ()
    for each in walked:  # it grows
        for name in _HOLDING:
            if name in each:
                walked += objects(each[name])
    return names.union(*walked)


def tools_of(request: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All tools that the model may use.

    Those of Responses may stand among its input as well, and within others; Anthropic's among the messages.
    """
    tools = objects(request.get("tools"))
    for item in objects(request.get("input")):
        tools += objects(item.get("tools"))
    for block in blocks:
        if block.get("type") in _ADDING:
            for change in (block, *objects(block.get("tool_changes"))):
                for tool in objects(change.get("tool")):
                    tools += objects(tool.get("definition"))
    for number, tool in enumerate(tools):
        if "tools" in tool and number < MOST_BLOCKS:
            tools += objects(tool["tools"])
    return tools


def objects(items: object) -> list[dict[str, Any]]:
    """Of a list, or the one that stands alone."""
    if isinstance(items, dict):
        return [items]
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _is_own(tool: Mapping[str, Any], kind: object) -> bool:
    """Whether the client runs it."""
    if not _GOOGLES_TOOLS.isdisjoint(tool):
        return False
    if kind in _OWN_TOOLS or _is_built_in(kind) or (kind is None and not _OWN_TOOLS_HAVE.isdisjoint(tool)):
        return True
    match tool:
        case {"type": "tool_search", "execution": "client"} | {"type": "shell", "environment": {"type": "local"}}:
            return True
    return False


def _is_built_in(kind: object) -> TypeGuard[str]:
    """Whether the provider has words of its own for such a tool."""
    return isinstance(kind, str) and (kind.startswith(_BUILT_IN_TOOLS) or kind in _BUILT_IN_WHOLE)


def _uses(tool: Mapping[str, Any]) -> int:
    """How often a tool that the provider runs may search."""
    uses, kind = tool.get(_MAX_USES), tool.get("type")
    if type(uses) is not int or not (isinstance(kind, str) and kind.startswith(_COUNTING_TOOLS)):
        return SEARCHES
    if any(name != _MAX_USES and name.casefold() == _MAX_USES for name in tool):
        return SEARCHES  # some upstreams read the other one
    return min(max(uses, 1), _MOST_SEARCHES)


def _has_words(block: Mapping[str, Any]) -> bool:
    """Whether the words of a block that is neither _TEXT nor an image stand in it."""
    kind = block.get("type")
    if kind == "document":
        source = block.get("source")
        return isinstance(source, dict) and source.get("type") in ("text", "content")
    if not isinstance(kind, str):
        return kind is None and "stdout" in block and block.keys() <= _OF_A_SHELL
    if kind.endswith(_TEXT_ENDINGS):
        return True
    return any(block.get(name) not in (None, []) for name in _ITEMS.get(kind, ()))


def _image(block: Mapping[str, Any]) -> str | None:
    """The base64 of an image that comes with the request."""
    match block:
        case {"type": "image", "source": {"type": "base64", "data": str() as data, "media_type": str() as kind}} if (
            kind.startswith("image/")
        ):
            return data
        case {"type": "image_url", "image_url": dict() as image} if not _NAMED_TYPE.isdisjoint(image):
            return None  # LiteLLM believes that before the URL, be it a video
        case {"type": "image_url", "image_url": {"url": str() as url} | (str() as url)} if url.startswith(
            "data:image/"
        ):
            return url
        case {"type": "input_image" | "computer_screenshot", "image_url": str() as url} if url.startswith(
            "data:image/"
        ):
            return url
    return None


def _may_be_larger(image: Mapping[str, Any]) -> bool:
    """Whether it is one of OpenAI's that nobody makes smaller."""
    match image:
        case {"type": "image"}:
            return False
        case {"type": "image_url"}:
            image = named if isinstance(named := image.get("image_url"), dict) else {}
    return image.get("detail") not in _RESIZED


def _data(block: Mapping[str, Any]) -> str:
    """The base64 of something else."""
    match block:
        case (
            {"source": {"type": "base64", "data": str() as data}}
            | {"file": {"file_data": str() as data}}
            | {"input_audio": {"data": str() as data}}
            | {"type": "input_file", "file_data": str() as data}
        ):
            return data
    return ""


def _asks(fields: object, names: Iterable[str]) -> int:
    """How many of these fields ask for something. An object does so without a word in it: `web_search_options`."""
    if not isinstance(fields, dict):
        return 0
    return sum(bool(value) or isinstance(value, dict) for value in map(fields.get, names))


def _compacts(request: Mapping[str, Any]) -> bool:
    """Whether the provider may read the input once more, to compact it."""
    match request.get("context_management"):
        case {"edits": list() as edits}:
            return any(str(edit.get("type")).startswith("compact") for edit in objects(edits))
        case list() as edits:  # of the Responses protocol
            return bool(edits)
    return False


def _reasons_in_passes(request: Mapping[str, Any]) -> bool:
    """Whether the model reads the input several times over (OpenAI's `pro`)."""
    match request.get("reasoning"):
        case {"mode": mode}:
            return mode not in (None, "standard")
    return False


def _continues(request: Mapping[str, Any]) -> bool:
    """Whether the provider holds what was said before: all threads, but one that begins."""
    match request.get("thread"):
        case None | {"type": "create"}:
            return False
    return True


def _hides_more(spread: object) -> bool:
    """Whether a prompt is added that Google holds, as its OpenAI endpoint is told of it; or what LiteLLM spreads."""
    match spread:
        case {"google": {"cached_content": cached}} if cached:
            return True
    return _asks(spread, _OPENING) > 0
