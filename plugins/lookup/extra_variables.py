"""The names of a run's extra variables. No variable tells them: there they are among all others."""

from __future__ import annotations

DOCUMENTATION = """
name: extra_variables
short_description: The names of the extra variables of this run
version_added: "0.1.0"
description:
  - Returns the names of what was given with C(-e), also in a file (C(-e @file)), in order.
  - A playbook that knows them can refuse the one that is mistyped, which Ansible itself would pass over.
options: {}
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ query('trollllm.gateway.extra_variables') }}"
"""

RETURN = """
_raw:
  description: The names.
  type: list
  elements: str
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible.utils.vars import load_extra_vars


class LookupModule(LookupBase):  # type: ignore[misc]  # ansible-core ships no types
    """``query('trollllm.gateway.extra_variables')``."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:  # noqa: ARG002 - it takes none
        """They have been read at the run's beginning, so that nothing is asked of a vault or a file again."""
        self.set_options(var_options=variables, direct=kwargs)
        return sorted(map(str, load_extra_vars(self._loader)))
