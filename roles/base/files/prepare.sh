#!/bin/sh
# prepare.sh CHANGE NAMES PACKAGE...: what every role builds on. Says in a line each what it does; without CHANGE=yes it
# only says it.
#   NAMES    lines of /etc/hosts, between two marks of ours
#   PACKAGE  Debian packages, of which a missing one is installed in one transaction
set -eu
change=$1 names=$2
shift 2

# A fraction of the time that apt takes to find out.
installed=$(dpkg-query --show --showformat '${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed || true)
if [ "$installed" -lt $# ]; then
  echo "install $*"
  if [ "$change" = yes ]; then
    # For systemctl nothing is running, as while an image is made: a service starts when its configuration is there, not when
    # its package is unpacked, and systemd reads its units once, not after each package.
    run() { said=$(env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 "$@" 2>&1) || return; }
    install() {
      run apt-get --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout=60 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install "$@"
    }
    # Where a run before was killed, apt asks for this.
    finish() {
      case $said in *'dpkg --configure -a'*) run dpkg --force-confdef --force-confold --configure -a ;; *) return 1 ;; esac
    }
    # There are none in a new machine's image, or they are older than a day.
    lists() { [ "$(find /var/lib/apt/lists -maxdepth 0 -mtime -1 ! -empty)" ] || run apt-get --quiet update; }
    { lists && { install "$@" || { finish && install "$@"; }; }; } || { echo "$said" && exit 1; }
    systemctl daemon-reload
  fi
fi

begin='# BEGIN quintet' end='# END quintet'
wanted=$(printf '%s\n%s\n%s' "$begin" "$names" "$end")
if [ "$(sed -n "/^$begin\$/,/^$end\$/p" /etc/hosts)" != "$wanted" ]; then
  echo 'write /etc/hosts'
  if [ "$change" = yes ]; then
    cp -p /etc/hosts /etc/hosts.quintet
    { sed "/^$begin\$/,/^$end\$/d" /etc/hosts && echo "$wanted"; } >/etc/hosts.quintet
    # A container's is a mount, which cannot be renamed to.
    mv /etc/hosts.quintet /etc/hosts 2>/dev/null || { cat /etc/hosts.quintet >/etc/hosts && rm /etc/hosts.quintet; }
  fi
fi
