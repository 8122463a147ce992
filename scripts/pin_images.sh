#!/bin/sh
# Asks the registries which images the names stand for now, and writes them by digest to deploy/images.env:
#   make pin-images                     asks, with Docker; nothing is written unless every image was found
#   scripts/pin_images.sh --check       warns of what is not pinned
# The names are those of deploy/images.in, or of variables of the same name in the environment.
set -eu
cd "$(dirname "$0")/.."
file="${IMAGES_FILE:-deploy/images.env}"
names="$(sed -n 's/^\([A-Z_]*\)=.*/\1/p' deploy/images.in)"

value_of() { # VARIABLE FILE
    [ ! -f "$2" ] || sed -n "s/^$1=//p" "$2" | tail -1
}

if [ "${1:-}" = --check ]; then
    unpinned=0
    for name in $names; do
        case "$(value_of "$name" "$file")" in
            *@sha256:*) ;;
            *) unpinned=$((unpinned + 1)); echo "WARNING: $name is not pinned to a digest; run: make pin-images" >&2 ;;
        esac
    done
    exit "$([ "$unpinned" = 0 ] && echo 0 || echo 1)"
fi

command -v docker >/dev/null || { echo "pin-images: docker is not there to ask with; nothing was written" >&2; exit 69; }
part="$(mktemp "$file.XXXXXX")"
trap 'rm -f "$part"' EXIT
for name in $names; do
    image="$(eval "printf %s \"\${$name:-}\"")"
    image="${image:-$(value_of "$name" deploy/images.in)}"
    image="${image%@sha256:*}"
    # Pulled, because the digest of what is there may be an older one's.
    if ! said="$(docker pull --quiet "$image" 2>&1)"; then
        echo "pin-images: the registry of $image could not be reached or does not have it; nothing was written" >&2
        printf '%s\n' "$said" | tail -1 >&2
        exit 75
    fi
    digest="$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" |
        sed -n 's/.*@\(sha256:[0-9a-f]\{64\}\)$/\1/p' | head -1)"
    [ -n "$digest" ] || { echo "pin-images: $image has no digest; nothing was written" >&2; exit 75; }
    echo "$name=$image@$digest" >>"$part"
done
chmod 0644 "$part"
mv "$part" "$file"
cat "$file"
