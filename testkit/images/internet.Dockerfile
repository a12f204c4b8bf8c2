# The rest of the internet: an authoritative name server (BIND), an ACME authority (pebble),
# and what the simulated LLM providers run on. One image; testkit/up.yml starts one container each.
FROM debian:trixie-slim
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      bind9 bind9-dnsutils pebble python3-aiohttp openssl \
 && rm -rf /var/lib/apt/lists/*
