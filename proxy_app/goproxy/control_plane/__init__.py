"""The control plane: what is true for all upstreams together."""
