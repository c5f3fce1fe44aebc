#!/bin/sh
# open.sh PATH DIRECTORY: the archives of hosts from the file that seal.sh made. The passphrase is on standard input.
set -eu
exec 3<&0
openssl enc -d -aes-256-cbc -pbkdf2 -iter 600000 -pass fd:3 -in "$1" </dev/null |
  tar --extract --directory "$2" --wildcards '*.tar.gz' || {
  echo "$1 cannot be opened: it is not whole, or backup_passphrase is not the one with which it was made." >&2
  exit 1
}
