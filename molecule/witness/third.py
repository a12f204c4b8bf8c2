"""A third upstream, as an operator writes it down."""

from __future__ import annotations

THIRD_FILE = """---
goproxy_upstream__third:
  domain: "chat3.{{ gateway_zone }}"
  port: 8006
  api_key: "{{ vault_openhands_api_key }}"
  endpoints:
    anthropic: https://llm-proxy.app.all-hands.dev/v1/messages
  multiplier_band: [1.0, 1.2]
  models:
    claude-haiku-4-5: {multiplier: 1.1}
"""
