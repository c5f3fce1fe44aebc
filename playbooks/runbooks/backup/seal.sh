#!/bin/sh
# seal.sh SECRETS DIRECTORY PATH: what is in the directory, and a copy of the secrets, encrypted as one file, whose path it says.
# The passphrase is on standard input.
set -eu
umask 077
mkdir -p "$(dirname "$3")"
cp -R "$1" "$2/secrets"
exec 3<&0
# Each by its name: a directory "." would be about the one in which it is unpacked.
(cd "$2" && tar --create -- * </dev/null) | openssl enc -aes-256-cbc -pbkdf2 -iter 600000 -pass fd:3 -out "$3.$$"
mv "$3.$$" "$3"
echo "$3"
