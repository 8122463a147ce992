#!/usr/bin/env bash
# with_services.sh COMMAND…: runs COMMAND with what the tests need from outside Python: a Docker engine
# with the test image, PostgreSQL, Redis and bubblewrap. What is there already is used (DOCKER_HOST,
# HIVEMIND_TEST_POSTGRES_URL, a running engine); what is not is installed from Debian's packages when
# run as root, started in a temporary folder on free loopback addresses, and ended with COMMAND.
# With CI=true or HIVEMIND_REQUIRE_ALL=1 a part that cannot be had is an error, else its tests skip.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
require_all="${HIVEMIND_REQUIRE_ALL:-}"
[ "${CI:-}" = true ] && require_all=1
dir="" command_pid="" docker_pid="" postgres_pid=""

say() { echo "with_services: $*" >&2; }

missing() { # WHAT WHY
    say "!!! NO $1: $2"
    if [ -n "$require_all" ]; then
        say "!!! it is required here (CI=true or HIVEMIND_REQUIRE_ALL=1)"
        exit 1
    fi
    say "!!! its tests will be SKIPPED"
}

postgres_bin() { # the newest server's folder, or nothing
    find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1
}

# -- what is not there is installed ------------------------------------------------------------------
install_packages() {
    local wanted=()
    if [ -z "${DOCKER_HOST:-}" ] && ! docker version >/dev/null 2>&1; then
        { command -v dockerd && command -v docker; } >/dev/null || wanted+=(docker.io)
    fi
    command -v debootstrap >/dev/null || wanted+=(debootstrap)
    [ -n "${HIVEMIND_TEST_POSTGRES_URL:-}" ] || [ -n "$(postgres_bin)" ] || wanted+=(postgresql)
    command -v bwrap >/dev/null || wanted+=(bubblewrap)
    command -v redis-server >/dev/null || wanted+=(redis-server)
    command -v flock >/dev/null || wanted+=(util-linux)
    [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null || wanted+=(haproxy)
    command -v promtool >/dev/null || wanted+=(prometheus)
    command -v faketime >/dev/null || wanted+=(faketime)
    [ ${#wanted[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "not root on Debian or Ubuntu, so not installing: ${wanted[*]}"
        return 0
    fi
    say "installing ${wanted[*]} (once)"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    # RUNLEVEL=1: the packages' own services stay off.
    if ! { "${apt[@]}" update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        "${apt[@]}" install -y --no-install-recommends "${wanted[@]}"; } >"$dir/apt.log" 2>&1; then
        tail -20 "$dir/apt.log" >&2
        say "the packages could not be installed"
        return 0
    fi
    # Newer releases keep the client in a package of its own.
    command -v docker >/dev/null || DEBIAN_FRONTEND=noninteractive \
        "${apt[@]}" install -y --no-install-recommends docker-cli >>"$dir/apt.log" 2>&1 || true
}

# -- the services ------------------------------------------------------------------------------------
# Each is tied to this shell (pdeathsig), so that none is left even when the shell is killed with -9.
docker_begin() {
    if [ -n "${DOCKER_HOST:-}" ] || docker version >/dev/null 2>&1; then return 0; fi
    { [ "$(id -u)" = 0 ] && command -v dockerd && command -v docker; } >/dev/null || return 0
    setpriv --pdeathsig TERM dockerd --host "unix://$dir/docker.sock" --data-root "$dir/data" \
        --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        </dev/null >"$dir/docker.log" 2>&1 9>&- &
    docker_pid=$!
    export DOCKER_HOST="unix://$dir/docker.sock"
}

docker_await() {
    local _
    for _ in $(seq 300); do
        docker version >/dev/null 2>&1 && return 0
        [ -z "$docker_pid" ] && break
        kill -0 "$docker_pid" 2>/dev/null || break
        sleep 0.1
    done
    [ -z "$docker_pid" ] || tail -5 "$dir/docker.log" >&2
    return 1
}

docker_end() {
    [ -n "$docker_pid" ] || return 0
    end_process "$docker_pid" TERM
    # Its containerd outlives it only when it was killed.
    local file
    for file in "$dir"/exec/containerd/containerd.pid "$dir"/exec/containerd/docker-containerd.pid; do
        [ -f "$file" ] && end_process "$(cat "$file")" TERM
    done
    awk -v dir="$dir/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        while read -r mounted; do umount -l "$mounted" 2>/dev/null || true; done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

postgres_begin() {
    [ -z "${HIVEMIND_TEST_POSTGRES_URL:-}" ] || return 0
    local bin port as=()
    bin="$(postgres_bin)"
    [ -n "$bin" ] || return 0
    mkdir "$dir/pg"
    if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
        chown postgres: "$dir/pg"
        as=(--reuid=postgres --regid=postgres --init-groups)
    fi
    (cd "$dir/pg" && setpriv "${as[@]}" -- "$bin/initdb" --no-sync --pgdata "$dir/pg/data" --auth trust \
        --username postgres --encoding UTF8 --locale C.UTF-8) >"$dir/postgres.log" 2>&1 || return 0
    port="$(free_port)"
    (cd "$dir/pg" && exec setpriv "${as[@]}" --pdeathsig INT -- "$bin/postgres" -D "$dir/pg/data" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories="$dir/pg" -c max_connections=200 \
        -c fsync=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off \
        </dev/null >>"$dir/postgres.log" 2>&1 9>&-) &
    postgres_pid=$!
    postgres_url="postgresql+psycopg://postgres@127.0.0.1:$port/postgres"
}

postgres_await() {
    [ -z "${HIVEMIND_TEST_POSTGRES_URL:-}" ] || return 0
    local _
    for _ in $(seq 300); do
        [ -n "$postgres_pid" ] && kill -0 "$postgres_pid" 2>/dev/null || break
        if "$(postgres_bin)/pg_isready" -q -d "${postgres_url/+psycopg/}"; then
            export HIVEMIND_TEST_POSTGRES_URL="$postgres_url"
            return 0
        fi
        sleep 0.1
    done
    [ ! -f "$dir/postgres.log" ] || tail -5 "$dir/postgres.log" >&2
    return 1
}

# -- the end -----------------------------------------------------------------------------------------
end_process() { # PID SIGNAL: waits up to 20 s, then kills
    local _
    kill -"$2" "$1" 2>/dev/null || return 0
    for _ in $(seq 200); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    [ -z "$command_pid" ] || end_process "$command_pid" TERM
    [ -z "$postgres_pid" ] || end_process "$postgres_pid" INT
    docker_end
    [ -z "$dir" ] || rm -rf --one-file-system "$dir"
    exit "$status"
}

main() {
    [ $# -gt 0 ] || { say "usage: with_services.sh COMMAND…"; exit 2; }
    trap clean_up EXIT
    trap 'exit 143' TERM HUP
    trap 'exit 130' INT
    # Short: a unix socket's path has at most 107 characters.
    dir="$(mktemp -d /tmp/hm.XXXXXX)"
    chmod 711 "$dir"
    install_packages
    docker_begin
    postgres_begin
    postgres_await || missing PostgreSQL "no server could be installed and started"
    if ! docker_await; then
        missing "Docker engine" "none answers, and none could be installed and started"
    elif ! "$here/make_test_image.sh" "${HIVEMIND_TEST_IMAGE:-hivemind-test:latest}"; then
        missing "test image" "it could not be made or imported"
    else
        export HIVEMIND_TEST_IMAGE="${HIVEMIND_TEST_IMAGE:-hivemind-test:latest}"
    fi
    command -v bwrap >/dev/null || missing bubblewrap "it is not installed"
    command -v promtool >/dev/null || missing Prometheus "it is not installed"
    command -v redis-server >/dev/null || missing "Debian's Redis" "redis-server is not installed"
    [ -z "$require_all" ] || export HIVEMIND_REQUIRE_ALL=1
    # In the background, because a trap waits for a command in the foreground; with the signals that a
    # shell turns off for background commands turned on again, so that Ctrl-C reaches it as ever.
    exec 3<&0
    env --default-signal=INT,QUIT "$@" <&3 3<&- &
    command_pid=$!
    # Ctrl-C is the command's to answer; this waits until it has.
    local status interrupted
    trap 'interrupted=1' INT
    while :; do
        interrupted="" status=0
        wait "$command_pid" || status=$?
        [ -n "$interrupted" ] || break
    done
    command_pid=""
    return "$status"
}

main "$@"
