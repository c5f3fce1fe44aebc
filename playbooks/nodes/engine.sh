#!/usr/bin/env bash
# Make sure that a Docker Engine answers on this machine: install it (Debian and Ubuntu, as root) and start it where needed.
# Prints what it did, nothing when there was nothing to do. On failure: one sentence with the remedy, exit status 1.
set -euo pipefail

log=/var/log/quintet-dockerd.log

die() {
  printf 'quintet: %s\n' "$*" >&2
  exit 1
}

answers() { docker version >/dev/null 2>&1; }

answers && exit 0

if [ "$(id -u)" -ne 0 ]; then
  command -v docker >/dev/null ||
    die "There is no Docker Engine here and only root may install one. Run 'sudo apt-get install docker.io', then 'sudo usermod -aG docker $(id -un)' and log in again."
  die "No Docker Engine answers to this user. Start it ('sudo systemctl start docker') or join its group ('sudo usermod -aG docker $(id -un)', then log in again)."
fi

if ! command -v dockerd >/dev/null; then
  command -v apt-get >/dev/null ||
    die "There is no Docker Engine here and no apt-get to install it with. Install Docker Engine 20.10 or newer, then run this again."
  echo "Installing Docker Engine (docker.io)"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker.io iptables; } >"$log" 2>&1 ||
    die "apt-get could not install docker.io; its output is in $log. Repair that, then run this again."
fi

answers && exit 0
echo "Starting Docker Engine"
if [ -d /run/systemd/system ]; then
  systemctl start docker || die "systemd could not start docker.service: 'journalctl -u docker' says why."
else
  # No service manager: dockerd is ours to start. A pid file whose process is gone, or is another program by now, keeps it
  # from starting.
  for pid_file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    [ -f "$pid_file" ] || continue
    command=$(cat "/proc/$(cat "$pid_file")/comm" 2>/dev/null || true)
    case "$command" in dockerd | containerd) ;; *) rm -f "$pid_file" ;; esac
  done
  setsid nohup dockerd >>"$log" 2>&1 </dev/null &
fi

for _ in $(seq 60); do
  answers && exit 0
  sleep 0.5
done
die "Docker Engine did not answer within 30 seconds; its output is in $log."
