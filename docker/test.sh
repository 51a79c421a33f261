#!/usr/bin/env bash
# Build an image for real and run kdcache in it: docker/test.sh [docker/Dockerfile | docker/Dockerfile.cpu]
#
# Takes Docker where its engine runs, else buildah (as root; apt-get install buildah debootstrap), which needs neither an
# engine nor a base image: debootstrap makes one of Debian 12. Variables:
#   BASE_IMAGE     another base; what is in the Dockerfile for Docker, debootstrap's for buildah
#   BUILD_OPTIONS  more options of the build, such as --volume for a company's certificates and pip.conf (buildah)
#   RUN_OPTIONS    more options of each run, such as --gpus all (Docker)
#   DEMO_OPTIONS   of `kdcache demo`; empty for the whole of it, a few minutes
set -euo pipefail
cd "$(dirname "$0")/.."

dockerfile=${1:-docker/Dockerfile}
image=kdcache-test
read -ra build_options <<< "${BUILD_OPTIONS:-}"
read -ra run_options <<< "${RUN_OPTIONS:-}"
read -ra demo_options <<< "${DEMO_OPTIONS---quick}"

say() { printf '\n== %s\n' "$*"; }

with_docker() {
    local base=()
    [ -z "${BASE_IMAGE:-}" ] || base=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
    say "docker build --file $dockerfile"
    DOCKER_BUILDKIT=1 docker build --file "$dockerfile" "${base[@]}" "${build_options[@]}" --tag "$image" .
    container=$(docker run --detach --init "${run_options[@]}" --entrypoint sleep "$image" infinity)
    trap 'docker rm --force "$container" > /dev/null; docker image rm "$image" > /dev/null' EXIT
    entrypoint=$(docker image inspect --format '{{.Config.Entrypoint}}' "$image")
    size=$(docker image ls --format '{{.Size}}' "$image")
}

with_buildah() {
    export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
    local base=${BASE_IMAGE:-} folder=
    container=
    trap 'for thing in "rm $container" "rmi $image" "rmi $image-base"; do buildah $thing > /dev/null 2>&1; done' EXIT
    if [ -z "$base" ]; then
        base=localhost/$image-base folder=$(mktemp -d)
        say "debootstrap bookworm"
        debootstrap --variant=minbase --include=ca-certificates bookworm "$folder" > /dev/null
        chmod 755 "$folder" # becomes that of /
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$folder" / > /dev/null
        rm -rf "$folder"
        buildah commit --quiet --rm "$container" "$base" > /dev/null
    fi
    say "buildah build --file $dockerfile"
    # Without layers: vfs copies everything below each of them.
    buildah build --format docker --layers=false --force-rm --file "$dockerfile" --build-arg "BASE_IMAGE=$base" \
        "${build_options[@]}" --tag "$image" .
    container=$(buildah from "$image")
    entrypoint=$(buildah inspect --type image --format '{{.Docker.Config.Entrypoint}}' "$image")
    size=$(buildah images --format '{{.Size}}' "$image")
}

inside() {
    if [ "$engine" = docker ]; then docker exec "$container" "$@"; else buildah run "$container" -- "$@"; fi
}

runs() {
    say "$*"
    inside "$@"
}

if docker info > /dev/null 2>&1; then
    engine=docker
elif command -v buildah > /dev/null && command -v debootstrap > /dev/null; then
    engine=buildah
else
    echo "Neither an engine of Docker's runs here, nor are buildah and debootstrap installed: start one or install them." >&2
    exit 1
fi
"with_$engine"

say "the image, $size"
[ "$entrypoint" = '[kdcache]' ] || { echo "its entry point is $entrypoint" >&2; exit 1; }
inside sh -ceu '
    [ "$(id -u)" != 0 ] || { echo "it runs as root" >&2; exit 1; }
    for tool in cc gcc g++ make pip pip3 git curl; do
        ! command -v "$tool" || { echo "$tool is in it" >&2; exit 1; }
    done
    echo "user $(id -un), $(python3 --version), no build tools"
'
runs kdcache --help
runs kdcache doctor
runs kdcache import fashion-mnist data --source sample --limit 600
runs sh -c 'kdcache dump-logits --teacher ese_vovnet19b_slim --policy fashion-mnist --views 2 \
    --weights "$(python -c "import kdcache.data.sample as sample; print(sample.__path__[0])")/teacher.safetensors"'
runs kdcache train --student test_resnet --recipe fashion-mnist --epochs 2
runs kdcache demo "${demo_options[@]}"
say "everything ran"
