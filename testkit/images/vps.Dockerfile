# A bare Debian 13 server as a provider hands it over: systemd and python3, and nothing of ours.
FROM debian:trixie-slim
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      systemd systemd-sysv python3 ca-certificates iproute2 procps \
 && rm -rf /var/lib/apt/lists/* \
 && systemctl mask getty.target console-getty.service systemd-logind.service systemd-udevd.service
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
