#!/bin/sh
# Make what a deployment must not share with any other: a password for each user of
# redis/users.acl, that file with the passwords' hashes in it, and a Redis URL for each client.
#
#   sh deploy/secrets.sh [DIRECTORY [HOST:PORT [SCHEME]]]
#
# Refuses a directory that is there already: new passwords are a rotation, not an accident.
set -eu

here=$(dirname "$0")
out=${1:-$here/secrets}
address=${2:-valkey:6379}
scheme=${3:-redis}

# 0700 keeps other users of this host out. The files in it are 0444, because Compose mounts them
# as they are and the containers' users, which have other uids, must be able to read them.
umask 077
mkdir "$out"
cp "$here/redis/users.acl" "$out/users.acl.new"
for user in sidecar producer waiter controller operator halter redriver repairer collector eraser rescuer health; do
    password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    sed "s/^\(user $user on #\)[0-9a-f]\{64\} /\1$hash /" "$out/users.acl.new" > "$out/users.acl"
    cp "$out/users.acl" "$out/users.acl.new"
    if [ "$user" = health ]; then
        printf %s "$password" > "$out/health-password"
    else
        # Database 0 is written out: with any other redis-py sends SELECT, which no user may.
        printf '%s\n' "$scheme://$user:$password@$address/0" > "$out/$user-redis-url"
    fi
done
rm "$out/users.acl.new"
chmod 0444 "$out"/*
echo "$out: users.acl for the server, *-redis-url for its clients" >&2
