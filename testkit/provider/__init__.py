"""A simulated LLM provider: real sockets, TLS and event streams, made-up words. One process is one provider.

    model       what is asked and what is answered, free of any wire format; the rule of the true usage
    anthropic   the Messages API on the wire: refusals, streams, whole answers
    openai      OpenAI's chat completions, and `responses` beside it
    wire        what they have in common
    behaviour   how it answers: how many events, how fast, and which named fault
    record      what it received and what it sent
    exchange    one answer on its way out
    server      TLS, for clients; `control` beside it plain HTTP, for tests

Only the last three and `__main__` do any I/O. It runs on Debian 13's own python3-aiohttp.
"""
