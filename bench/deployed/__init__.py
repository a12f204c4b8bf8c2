"""What bench/deploy.py measures with: a VPS to deploy to, an operator with any number of upstreams, the figures."""
