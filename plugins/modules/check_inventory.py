#!/usr/bin/python
# Copyright: trollllm contributors
# MIT License (see LICENSE in the repository)
"""The reference page of the action check_inventory, which runs on the controller (plugins/action/)."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check_inventory
short_description: Check everything that the inventory says, and normalise the upstreams
version_added: "0.1.0"
author:
  - trollllm contributors (@trollllm)
description:
  - Collects the variables C(goproxy_upstream__<name>) (one file per upstream), C(goproxy_price_book) and C(gateway_*)
    of the host, and checks them before anything is touched. Also the options that are set of the collection's roles,
    and the files in which all of it stands.
  - Reports every problem at once. Each names the upstream, the field, what is wrong, and what would be right.
    The value of a secret is never shown.
  - Sets the fact C(goproxy_upstreams), which all roles read as a variable. It carries no secret.
  - Runs on the controller and needs no connection to the host.
attributes:
  check_mode:
    description: Does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so that there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the inventory
  trollllm.gateway.check_inventory:

- name: Keep the upstreams in a variable, also where facts are none (INJECT_FACTS_AS_VARS)
  ansible.builtin.set_fact:
    goproxy_upstreams: "{{ ansible_facts.goproxy_upstreams }}"

- name: Show the domains
  ansible.builtin.debug:
    msg: "{{ goproxy_upstreams | map(attribute='domain') }}"
"""

RETURN = r"""
problems:
  description: What is wrong, one line each.
  type: list
  elements: str
  returned: on failure
  sample:
    - "openhands: models.claude-opus-4-5.multiplier: multiplier of claude-opus-4-5 is 1.2, outside the band 1.06-1.08;
      give one inside it, or change multiplier_band"
ansible_facts:
  description: The fact that the roles read.
  type: dict
  returned: on success
  contains:
    goproxy_upstreams:
      description: The upstreams, sorted by name, with everything that is derived from what the operator wrote.
      type: list
      elements: dict
      contains:
        name:
          description: From the name of the variable; C(_) becomes C(-).
          type: str
          sample: openhands
        domain:
          description: The domain that clients use.
          type: str
          sample: chat.trollllm.xyz
        port:
          description: The port of the proxy on the container network.
          type: int
          sample: 8004
        service:
          description: Name of the Compose service, of the container, and in the DNS of the container network.
          type: str
          sample: goproxy-openhands
        uid:
          description: User id of the container, 10000 and the port.
          type: int
          sample: 18004
        ttl:
          description: TTL of the DNS record, in seconds.
          type: int
          sample: 300
        endpoints:
          description: The provider's URLs, one per protocol.
          type: list
          elements: dict
          sample:
            - name: openhands-anthropic
              protocol: anthropic
              base_url: https://llm-proxy.app.all-hands.dev/v1/messages
        multiplier_band:
          description: The lowest and the highest multiplier that is allowed.
          type: list
          elements: float
          sample: [1.06, 1.08]
        models:
          description: The models, with their list prices and multipliers.
          type: list
          elements: dict
          sample:
            - name: Claude Opus 4.5
              id: claude-opus-4-5-20251101
              aliases: [claude-opus-4-5]
              upstream_model_id: claude-opus-4-5-20251101
              multiplier: 1.08
              context_tokens: 200000
              max_output_tokens: 64000
              prices:
                - effective_from: "2025-11-24"
                  tiers:
                    - {up_to_prompt_tokens: null, input: 5, output: 25}
        timeouts:
          description: Seconds for connecting, the first byte, the longest gap, and the whole request.
          type: dict
          sample: {connect: 10, first_byte: 300, idle: 120, total: 3600}
        max_body_mib:
          description: The largest request, in MiB.
          type: int
          sample: 32
        wallet:
          description: The wallet of each account that pays here; null is the one of the account's own name.
          type: str
          sample: null
        include_usage:
          description: Whether OpenAI streams are asked for their usage where the client did not.
          type: bool
          sample: true
        chat_limit:
          description: By which field the provider bounds a chat completion.
          type: str
          sample: either
        staleness_seconds:
          description: How long the proxy believes its last good answer about keys while the backend is away.
          type: int
          sample: 3600
        processes:
          description: How many processes serve the upstream on its port.
          type: int
          sample: 1
        disconnect:
          description: What becomes of an answer whose client has gone, and within which bounds.
          type: dict
          sample: {policy: drain, seconds: 600, max_mib: 16, concurrent: 256}
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.fail_json(msg="check_inventory is an action of the controller; run it from a playbook with the collection")


if __name__ == "__main__":
    main()
