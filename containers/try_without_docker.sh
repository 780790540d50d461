#!/usr/bin/env bash
# Build the Dockerfile and use the image on a machine that has no Docker engine.
#
#   sudo containers/try_without_docker.sh [OPTION OF seqtune demo ...]
#
# Debian's debootstrap makes the base image, Debian's buildah builds the Dockerfile on it in chroot isolation, and the
# image's own command is run in it with no network: the demo as the image's user, a file from a mounted folder as a user
# unknown to the image. Then the run directories are looked at. It needs root on a Debian (for chroot and mounts), 12 GB
# of disk, and what apt and pip are set up to reach.
#
# Where packages come from is not said here but taken from the machine: the Debian mirror from apt's sources, and pip's
# configuration, with the folders and certificates that it names, is lent to the build read-only; none of it is in the
# image. What can be set in the environment:
#
#   SUITE    Debian's release for the base image                      (bookworm)
#   MIRROR   where debootstrap finds it                               (from apt's sources)
#   PIP_ARGS more arguments for pip, as in the Dockerfile             (none)
#   WORK     folder for everything that is made; it is then kept, the run directories lie in its runs.*, and a second
#            call uses the base image again                           (a temporary one, deleted at the end)
set -euo pipefail

SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-}
PIP_ARGS=${PIP_ARGS:-}
WORK=${WORK:-}

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BASE_IMAGE=localhost/seqtune-base
IMAGE=localhost/seqtune
IMAGE_USER=1000
OTHER_USER=12345 # has no entry in the image's /etc/passwd, as the caller of `docker run --user` has none

die() {
    echo "try_without_docker: $*" >&2
    exit 1
}

say() {
    printf '\n== %s  [%d s]\n' "$*" "$SECONDS"
}

# --- tools ------------------------------------------------------------------------------------------------------------

install_tools() {
    local missing=() tool
    for tool in buildah debootstrap; do
        command -v "$tool" > /dev/null || missing+=("$tool")
    done
    if ((${#missing[@]})); then
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
}

clean_up() {
    "${BUILDAH[@]}" rm --all > /dev/null 2>&1 || true
    "${BUILDAH[@]}" rmi --prune > /dev/null 2>&1 || true # what an earlier call left of the same name
    rm -f "$WORK/pip.conf"
    if [[ -n ${TEMPORARY:-} ]]; then
        rm -rf --one-file-system "$WORK"
    fi
}

# --- what the machine knows -------------------------------------------------------------------------------------------

debian_mirror() {
    # shellcheck disable=SC2016 # apt-get fills these in, not the shell
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN)' 'Created-By: Packages' |
        awk -v suite="$SUITE" '$2 == suite && $3 == "Debian" && !found++ { print $1 }'
}

# pip's settings, from files and environment together, as one file; standard output: the paths that it names.
pip_settings() {
    python3 -m pip config list | python3 -c '
import ast, configparser, pathlib, re, sys
settings, paths = configparser.RawConfigParser(), set()
for line in sys.stdin:
    name, value = line.rstrip("\n").split("=", 1)
    section, key = (":env:", name[len(":env:."):]) if name.startswith(":env:") else name.split(".", 1)
    section, value = "global" if section == ":env:" else section, ast.literal_eval(value)
    if not settings.has_section(section):
        settings.add_section(section)
    if not settings.has_option(section, key) or name.startswith(":env:"):  # the environment comes first, as in pip
        settings.set(section, key, value)
    for scheme, path in re.findall(r"(?:^|\s)(file://)?(/\S+)", value):
        # The pages of an index on disk link to files beside it.
        paths.add(pathlib.Path(path).parent if scheme else pathlib.Path(path))
with open(sys.argv[1], "w", encoding="utf-8") as file:
    settings.write(file)
print(*sorted(str(path) for path in paths if path.exists() and path != pathlib.Path("/")), sep="\n")
' "$1"
}

# --- the steps --------------------------------------------------------------------------------------------------------

make_base() {
    if "${BUILDAH[@]}" inspect --type image "$BASE_IMAGE" > /dev/null 2>&1; then
        return
    fi
    rm -rf --one-file-system "$WORK/base"
    say "base image: $SUITE with Python, by debootstrap"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$SUITE" "$WORK/base" "$MIRROR" > "$WORK/debootstrap.log" || {
        tail -n 3 "$WORK/debootstrap.log" >&2
        die "debootstrap failed"
    }
    tar --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/*' \
        --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' \
        -C "$WORK/base" -cf "$WORK/base.tar" .
    local container
    container=$("${BUILDAH[@]}" from scratch)
    "${BUILDAH[@]}" add --quiet "$container" "$WORK/base.tar" / > /dev/null
    "${BUILDAH[@]}" commit --quiet --rm "$container" "$BASE_IMAGE" > /dev/null
    rm -rf --one-file-system "$WORK/base" "$WORK/base.tar"
}

build_image() {
    say "the Dockerfile, by buildah"
    local lent=() path paths
    paths=$(umask 077 && pip_settings "$WORK/pip.conf") # the settings may hold a password
    lent=(--volume "$WORK/pip.conf:/etc/pip.conf:ro")
    for path in $paths; do
        lent+=(--volume "$path:$path:ro")
    done
    "${BUILDAH[@]}" build --pull-never --format docker \
        --build-arg BASE="$BASE_IMAGE" --build-arg PIP_ARGS="$PIP_ARGS" "${lent[@]}" --tag "$IMAGE" "$SOURCE"
    "${BUILDAH[@]}" images "$IMAGE"
}

# run USER ARGUMENT...: what `docker run --rm --network none --user USER -v DATA:/data:ro -v RUNS:/runs IMAGE` does. The
# network is taken away with unshare, since in chroot isolation a container has the network of its caller.
run() {
    local user=$1 entrypoint
    shift
    entrypoint=$("${BUILDAH[@]}" inspect --type image --format '{{index .Docker.Config.Entrypoint 0}}' "$IMAGE")
    unshare --net -- "${BUILDAH[@]}" run \
        --user "$user:$user" --volume "$WORK/data:/data:ro" --volume "$RUNS:/runs" \
        "$CONTAINER" -- "${SHELL_IN_IMAGE:-$entrypoint}" "$@"
}

# check RUN USER: the run directory is whole, is its user's, and nothing half written lies beside it.
check() {
    local run="$RUNS/$1" part
    for part in run.json log.jsonl adapter/adapter_model.safetensors predictions/hold_out.jsonl; do
        [[ -s $run/$part ]] || die "$run/$part is not there"
    done
    [[ -z $(find "$run" ! -uid "$2") ]] || die "not everything in $run is of user $2"
    [[ -z $(find "$RUNS" -name '*.partial*') ]] || die "something half written is left in $RUNS"
    echo "checked: $(du -sh "$run" | cut -f1) in runs/$1, all of user $2"
}

try_image() {
    CONTAINER=$("${BUILDAH[@]}" from --pull-never "$IMAGE")
    # buildah would mount the image's empty volumes over ours, where Docker lets ours take their place.
    "${BUILDAH[@]}" config --volume /runs- --volume /cache- "$CONTAINER"
    RUNS=$(mktemp -d "$WORK/runs.XXXXXX")
    chmod 1777 "$RUNS" # two users write here
    install -d "$WORK/data"
    install -m 644 "$SOURCE/examples/support.json" "$WORK/data/support.json"

    say "inside: Python, network, user"
    # shellcheck disable=SC2016 # for the shell in the image
    SHELL_IN_IMAGE=/bin/sh run "$IMAGE_USER" -c '
        set -e
        python -c "import sys, torch; print(\"Python\", sys.version.split()[0], \"torch\", torch.__version__)"
        echo "network: $(tail -n +3 /proc/net/dev | cut -d: -f1 | xargs) only"
        echo "user: $(id -u), home: $HOME"
        touch "$HOME/.writable" && rm "$HOME/.writable"
        test -z "$(find / -xdev \( -name .git -o -path "*/seqtune/tests" \) 2> /dev/null)"'
    run "$IMAGE_USER" --version
    run "$IMAGE_USER" inputs --json | python3 -c 'import json, sys; print(len(json.load(sys.stdin)), "inputs listed")'

    say "inside: seqtune demo, as user $IMAGE_USER, no network"
    run "$IMAGE_USER" demo --out runs/demo "$@"
    check demo "$IMAGE_USER"

    say "inside: seqtune finetune on a mounted file, as user $OTHER_USER, no network"
    run "$OTHER_USER" finetune /data/support.json --input-text-key question --output-text-key reply \
        --model-id seqtune-mini --max-steps 20
    check support "$OTHER_USER"
    echo "How do I switch it on?" | run "$OTHER_USER" predict runs/support -

    say "done"
}

[[ $EUID == 0 ]] || die "needs root: chroot and mounts"
if [[ -z $WORK ]]; then
    WORK=$(mktemp -d)
    TEMPORARY=1
    chmod 755 "$WORK" # the users inside must reach what is mounted from it
fi
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)
# Its storage lies in the work folder too: the machine's own images are not touched.
BUILDAH=(env BUILDAH_ISOLATION=chroot buildah --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/state")
trap clean_up EXIT
install_tools
MIRROR=${MIRROR:-$(debian_mirror)}
[[ -n $MIRROR ]] || die "apt's sources name no mirror of Debian $SUITE: set MIRROR"
make_base
build_image
try_image "$@"
