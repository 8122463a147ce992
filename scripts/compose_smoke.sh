#!/usr/bin/env bash
# compose_smoke.sh: builds the image of HEAD, brings docker-compose.yml up, runs a task on it from outside,
# restarts the gateway, and takes all of it down again. For root on Debian or Ubuntu; no image is pulled:
# the base image and PostgreSQL's are made from Debian's packages. Without an engine that answers it runs
# itself under with_services.sh, which starts one. Free ports of loopback are used, and everything that was
# begun is gone at the end, also after a failure. Every step has a limit; all of it takes some five minutes.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
root="$(dirname "$here")"
cache="${HIVEMIND_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hivemind-nodepool}"
project="hmsmoke$$"
raw_image="$project-debian" base_image="$project-base" pool_image="$project-pool" postgres_image="$project-postgres"
parts=(valkey postgres gateway dispatcher agent flower)
work="" compose=() up="" child=""

say() { echo "compose_smoke: $*" >&2; }
fail() { say "FAILED: $*"; exit 1; }

bounded() { # SECONDS COMMAND…: in the background, because a trap waits for a command in the foreground
    local status=0
    timeout "$@" </dev/null &
    child=$!
    wait "$child" || status=$?
    child=""
    return "$status"
}

# -- what is not there is installed --------------------------------------------------------------------
install_packages() {
    local wanted=()
    command -v debootstrap >/dev/null || wanted+=(debootstrap)
    docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || wanted+=(docker-compose)
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "installing ${wanted[*]} (once)"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    "${apt[@]}" update
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${wanted[@]}" >/dev/null
}

# -- images --------------------------------------------------------------------------------------------
debian_tarball() { # PATH: a small Debian with Python and pip, as debootstrap leaves it
    local release mirror
    # shellcheck disable=SC1091
    release="$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")"
    mirror="${HIVEMIND_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v release="$release" '$2 == release && !found { print $1; found = 1 }')}"
    say "making a base from Debian $release packages (once)"
    bounded 900 debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        "$release" "$work/debian" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 ||
        { tail -20 "$work/debootstrap.log" >&2; fail "debootstrap"; }
    rm -rf "$work"/debian/var/cache/apt/* "$work"/debian/var/lib/apt/lists/* "$work"/debian/dev/*
    tar --numeric-owner -C "$work/debian" -cf "$1.part" .
    mv "$1.part" "$1"
    rm -rf "$work/debian"
}

build() { # NAME CONTEXT DOCKERFILE [BASE_IMAGE]: with the host's network, and its proxy if it has one
    local variable arguments=()
    for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!variable:-}" ] || arguments+=(--build-arg "$variable")
    done
    say "building $1"
    DOCKER_BUILDKIT=0 bounded 900 docker build --network host --force-rm --tag "$1" --file "$3" \
        ${4:+--build-arg "BASE_IMAGE=$4"} "${arguments[@]}" "$2" >"$work/build.log" 2>&1 ||
        { tail -30 "$work/build.log" >&2; fail "docker build of $3"; }
}

make_images() {
    local tarball index
    tarball="$cache/smoke-base-$(declare -f debian_tarball | sha256sum | cut -c1-12)-$(dpkg --print-architecture).tar"
    mkdir -p "$cache"
    find "$cache" -maxdepth 1 -name 'smoke-base-*' -mtime +30 -delete
    [ -f "$tarball" ] || debian_tarball "$tarball"
    docker import "$tarball" "$raw_image" >/dev/null
    # Whom this host trusts and where its packages come from, the images must know while they are built.
    mkdir "$work/base"
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/"
    index="${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n%s\n' \
        "${index:+index-url = $index}" >"$work/base/pip.conf"
    printf '%s\n' "FROM $raw_image" 'COPY ca-certificates.crt /etc/ssl/certs/' 'COPY pip.conf /etc/pip.conf' \
        >"$work/base/Dockerfile"
    build "$base_image" "$work/base" "$work/base/Dockerfile"
    build "$postgres_image" "$work/tree/deploy/debian" "$work/tree/deploy/debian/postgres.Dockerfile" "$base_image"
    build "$pool_image" "$work/tree" "$work/tree/deploy/Dockerfile" "$base_image"
}

# -- the pool ------------------------------------------------------------------------------------------
write_env() {
    local name
    cp .env.example .env
    flower_login="smoke:$(secret)"
    for name in VALKEY_PASSWORD POSTGRES_PASSWORD AGENT_PASSWORD; do
        sed -i "s|^$name=\$|$name=$(secret)|" .env
    done
    sed -i -e "s|^FLOWER_BASIC_AUTH=\$|FLOWER_BASIC_AUTH=$flower_login|" \
        -e "s|^#JWT_SECRET_KEY=\$|JWT_SECRET_KEY=$(secret)|" -e "s|^#STORAGE_KEY=\$|STORAGE_KEY=$(secret)|" \
        -e "s|^#HIVEMIND_IMAGE=.*|HIVEMIND_IMAGE=$pool_image|" \
        -e "s|^#POSTGRES_IMAGE=.*|POSTGRES_IMAGE=$postgres_image|" \
        -e "s|^#GATEWAY_PUBLISH=.*|GATEWAY_PUBLISH=$gateway|" -e "s|^#FLOWER_PUBLISH=.*|FLOWER_PUBLISH=$flower|" .env
}

secret() { od -An -tx1 -N24 /dev/urandom | tr -d ' \n'; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

health() { # PART
    local id
    id="$("${compose[@]}" ps -q "$1")"
    [ -z "$id" ] || docker inspect --format '{{.State.Health.Status}}' "$id" 2>/dev/null
}

await_health() { # SECONDS: until every part is healthy
    local part end=$((SECONDS + $1))
    for part in "${parts[@]}"; do
        while [ "$(health "$part")" != healthy ]; do
            [ "$SECONDS" -lt "$end" ] || fail "$part is not healthy after $1 s: $(health "$part")"
            sleep 1
        done
    done
}

start() {
    local help wait=()
    help="$("${compose[@]}" up --help)"
    [[ "$help" != *--wait* ]] || wait=(--wait) # Compose 1 does not have it
    say "${compose[*]} up -d ${wait[*]}"
    up=1
    bounded 300 "${compose[@]}" up -d "${wait[@]}" || fail "compose up"
    await_health 180
    "${compose[@]}" ps --all
    local status
    status="$(docker ps --all --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=account --format '{{.Status}}')"
    [[ "$status" == "Exited (0)"* ]] || fail "account: $status"
}

hivemind() { # from outside, over the published port, with the client of HEAD
    HIVEMIND_GATEWAY="$gateway" HIVEMIND_PASSWORD="$password" XDG_CONFIG_HOME="$work/profile" bounded 180 \
        "$root/.venv/bin/python" -m hivemind "$@"
}

run_task() {
    # The agent's own account: what a stranger may run there depends on this machine.
    password="$(sed -n 's/^AGENT_PASSWORD=//p' .env)"
    hivemind login compose
    hivemind nodes
    hivemind submit examples/pi --task-id smoke-1 --follow --output "$work/out1"
    grep -H . "$work/out1/result.json"
}

ask_flower() {
    timeout 120 "$root/.venv/bin/python" - "http://$flower" "$flower_login" <<'PYTHON'
import base64, json, sys, time, urllib.error, urllib.request

address, login = sys.argv[1:]
try:
    urllib.request.urlopen(f"{address}/api/workers", timeout=10)
    sys.exit("Flower answers without its login")
except urllib.error.HTTPError as error:
    print(f"Flower without its login: {error.code}")
    assert error.code == 401, error
header = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
wanted, alive, end = ("dispatcher@", "agent@compose/node1"), [], time.monotonic() + 60
while time.monotonic() < end:
    request = urllib.request.Request(f"{address}/api/workers?status=1", headers=header)
    with urllib.request.urlopen(request, timeout=10) as answer:
        alive = [name for name, is_alive in json.load(answer).items() if is_alive]
    if all(any(name.startswith(want) for name in alive) for want in wanted):
        print(f"Flower with its login: {answer.status}, alive: {', '.join(sorted(alive))}")
        sys.exit(0)
    time.sleep(1)
sys.exit(f"Flower shows only {alive}")
PYTHON
}

restart_gateway() {
    bounded 120 "${compose[@]}" restart gateway
    await_health 120
    # The same token, the same task, the same result; and the agent works for the new gateway.
    hivemind ls
    hivemind result smoke-1 --output "$work/again"
    cmp "$work/out1/result.json" "$work/again/result.json" || fail "another result after the restart"
    hivemind submit examples/wordcount --task-id smoke-2 --follow --output "$work/out2"
}

stop() {
    local left
    bounded 180 "${compose[@]}" down --volumes --timeout 60
    up=""
    left="$(docker ps --all --quiet --filter "label=com.docker.compose.project=$project"
        docker volume ls --quiet --filter "label=com.docker.compose.project=$project"
        docker network ls --quiet --filter "label=com.docker.compose.project=$project")"
    [ -z "$left" ] || fail "left behind by compose down: $left"
}

# -- the end -------------------------------------------------------------------------------------------
clean_up() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    if [ -n "$up" ]; then
        "${compose[@]}" ps --all >&2 || true
        "${compose[@]}" logs --no-color --tail 30 >&2 || true
        "${compose[@]}" kill >/dev/null 2>&1 || true # quick, because who sent a signal may not wait long
        "${compose[@]}" down --volumes --timeout 1 >/dev/null 2>&1 || true
    fi
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    docker image rm --force "$pool_image" "$postgres_image" "$base_image" "$raw_image" >/dev/null 2>&1 || true
    exit "$status"
}

main() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then fail "needs root on Debian or Ubuntu"; fi
    if ! docker version >/dev/null 2>&1; then
        [ -z "${HIVEMIND_SMOKE_NESTED:-}" ] || fail "no Docker engine answers"
        HIVEMIND_SMOKE_NESTED=1 exec "$here/with_services.sh" "$0" "$@"
    fi
    trap clean_up EXIT
    trap 'exit 143' TERM HUP
    trap 'exit 130' INT
    install_packages
    [ -x "$root/.venv/bin/hivemind" ] || make -C "$root" install
    compose=(docker-compose)
    if docker compose version >/dev/null 2>&1; then compose=(docker compose); fi
    "${compose[@]}" version
    work="$(mktemp -d /tmp/hmsmoke.XXXXXX)"
    mkdir "$work/tree"
    git -C "$root" archive HEAD | tar -x -C "$work/tree"
    cd "$work/tree"
    make_images
    gateway="127.0.0.1:$(free_port)" flower="127.0.0.1:$(free_port)"
    export COMPOSE_PROJECT_NAME="$project"
    write_env
    start
    run_task
    ask_flower
    restart_gateway
    "${compose[@]}" ps --all
    stop
    say "all of it worked, and nothing is left ($SECONDS s)"
}

main "$@"
