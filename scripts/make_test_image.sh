#!/usr/bin/env bash
# make_test_image.sh [NAME]: a small container image with Python, made from Debian's packages and
# imported into the Docker engine of DOCKER_HOST, so that tests need no image registry.
# Root on Debian or Ubuntu with debootstrap. The tarball is kept under HIVEMIND_TEST_CACHE and used again.
set -euo pipefail

name="${1:-${HIVEMIND_TEST_IMAGE:-hivemind-test:latest}}"
cache="${HIVEMIND_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hivemind-nodepool}"
begun=$(date +%s%N)

say() { echo "make_test_image: $*" >&2; }
seconds() { awk -v from="$begun" -v to="$(date +%s%N)" 'BEGIN { printf "%.1f s", (to - from) / 1e9 }'; }

# shellcheck disable=SC1091
release="$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")"
arch="$(dpkg --print-architecture)"

mirror_of_apt() {
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk -v release="$release" '$2 == release && !found { print $1; found = 1 }'
}

build() {
    local mirror root # without a mirror debootstrap takes its own default
    mirror="${HIVEMIND_DEBIAN_MIRROR:-$(mirror_of_apt)}"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    root="$work/root"
    say "building from Debian $release packages (once)"
    if ! debootstrap --variant=minbase --include=python3,python3-pip "$release" "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1; then
        tail -20 "$work/log" >&2
        say "debootstrap failed"
        return 1
    fi
    ln -sf python3 "$root/usr/bin/python"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/{doc,man,info,locale,lintian} "$root"/usr/lib/python3*/EXTERNALLY-MANAGED \
        "$root"/dev/* "$root"/usr/lib/*/gconv "$root"/debootstrap
    find "$root/usr/lib" -name __pycache__ -prune -exec rm -rf {} +
    # Precompiled once here, or every container would compile what it imports: its root is read-only.
    chroot "$root" python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.* >/dev/null || true
    tar --numeric-owner -C "$root" -cf "$tarball.part" .
    mv "$tarball.part" "$tarball"
    rm -rf "$work"
    trap - EXIT
}

# A change of the recipe makes another image.
key="$(declare -f build | sha256sum | cut -c1-12)-$release-$arch"
tarball="$cache/test-image-$key.tar"
mkdir -p "$cache"
find "$cache" -maxdepth 1 -name 'test-image-*' -mtime +30 ! -name "$(basename "$tarball")" -delete
exec 9>"$cache/lock"
flock 9
[ -f "$tarball" ] || build
flock -u 9

have="$(docker image inspect --format '{{index .Config.Labels "hivemind.test-image"}}' "$name" 2>/dev/null || true)"
if [ "$have" != "$key" ]; then
    docker import --change "LABEL hivemind.test-image=$key" --change 'CMD ["python"]' \
        --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8' "$tarball" "$name" >/dev/null
fi
say "$name is there ($(du -h "$tarball" | cut -f1), $(seconds))"
