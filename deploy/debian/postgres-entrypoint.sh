#!/bin/sh
# Does with Debian's PostgreSQL what docker-compose.yml expects of the postgres image: POSTGRES_USER,
# POSTGRES_PASSWORD and POSTGRES_DB make the cluster of an empty PGDATA; a cluster that is there is kept.
set -eu

if [ "$(id -u)" = 0 ]; then # a new volume belongs to root, and the server refuses to run as root
    chown postgres:postgres "$PGDATA" && chmod 0700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?must be set to make the database}"
    user="${POSTGRES_USER:-postgres}"
    database="${POSTGRES_DB:-$user}"
    password_file="$(mktemp)"
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
    initdb --pgdata "$PGDATA" --username "$user" --pwfile "$password_file" --encoding UTF8 --locale C.UTF-8 \
        --auth-local trust --auth-host scram-sha-256
    rm -f "$password_file"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # Not on TCP yet, so that nobody takes it for ready.
    pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses=''" start
    [ "$database" = postgres ] || createdb --username "$user" --maintenance-db postgres "$database"
    pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
fi

unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
