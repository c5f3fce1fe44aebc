#!/bin/sh
# collect.sh ARCHIVE PROJECTS PROJECT...: what of this host is not in PostgreSQL: the state of projects, what RabbitMQ was told,
# and versions.
set -eu
umask 077
archive=$1 projects=$2
shift 2
found=$(mktemp -d)
trap 'rm -r "$found"' EXIT
dpkg-query --show >"$found/packages.txt"
for project; do
  echo "$project $(readlink "$projects/$project/current" || echo none)"
done >"$found/releases.txt"
if systemctl --quiet is-active rabbitmq-server; then
  rabbitmqctl --quiet export_definitions - --format json >"$found/definitions.json"
fi
for project; do
  shift
  [ ! -d "/var/lib/$project" ] || set -- "$@" "/var/lib/$project"
done
# Each by its name: a directory "." would be about the one in which it is unpacked.
cd "$found"
set -- -- * "$@"
# What is written meanwhile (1) is taken as it is found.
tar --create --gzip --file "$archive" "$@" 2>/dev/null || [ $? = 1 ]
