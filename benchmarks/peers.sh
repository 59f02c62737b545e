#!/usr/bin/env bash
# Makes one virtual environment per peer under benchmarks/.peers/<name>/, each pinned apart from the others.
#
#   benchmarks/peers.sh               every peer
#   benchmarks/peers.sh lance hf      only these
#   PYTHON=/path/to/python3.11 benchmarks/peers.sh
#
# A peer already made by the same recipe is left as it is. A peer that fails is named at the end with its log.
set -uo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
peers_dir="${LAKEFMT_BENCH_PEERS:-$here/.peers}"
python="${PYTHON:-python3.11}"
torch="torch==2.13.0"  # any other spelling may resolve to a build with gigabytes of CUDA
common=("pillow" "simplejpeg")
all=(deeplake3 deeplake4 lance delta mosaicml litdata webdataset hf plot)
bare=" delta plot "  # those without torch and the common packages

# What a peer needs beside torch and the common packages (if it is not bare). numpy is named per peer: deeplake 3 needs numpy 1.
recipe() {
    case "$1" in
        deeplake3) echo "deeplake==3.9.27 numpy<2 pillow<11 setuptools<81" ;;
        deeplake4) echo "deeplake==4.7.4 numpy" ;;
        lance) echo "pylance==14.0.2 numpy" ;;
        delta) echo "deltalake==1.6.6 pyarrow numpy" ;;
        mosaicml) echo "mosaicml-streaming==0.13.0 numpy" ;;
        litdata) echo "litdata==0.2.76 numpy" ;;
        webdataset) echo "webdataset==1.0.2 numpy" ;;
        hf) echo "datasets==5.2.0 numpy" ;;
        plot) echo "matplotlib" ;;  # no peer: draws the plots where the project's own environment can't
        *) return 1 ;;
    esac
}

# The modules whose import proves that the environment works.
modules() {
    case "$1" in
        deeplake3 | deeplake4) echo "torch, numpy, simplejpeg, deeplake" ;;
        mosaicml) echo "torch, numpy, simplejpeg, streaming" ;;
        hf) echo "torch, numpy, simplejpeg, datasets" ;;
        delta) echo "deltalake, pyarrow, numpy" ;;
        plot) echo "matplotlib" ;;
        *) echo "torch, numpy, simplejpeg, $1" ;;
    esac
}

# torch alone and first: pip then keeps this build, whatever a peer asks for.
first_torch() {
    [[ "$bare" == *" $1 "* ]] || "$2/bin/pip" install --quiet -c "$2/constraints.txt" "$torch"
}

# mosaicml-streaming imports torchvision for two names that it needs only in its vision datasets, which are not used
# here, and the torchvision of the registry is built against a CUDA torch: it does not load beside a CPU torch.
# Where it does not load, a stub with just those names takes its place. Nothing that is measured goes through it.
mend() {
    local name="$1" dir="$2" site
    [[ "$name" == mosaicml ]] || return 0
    "$dir/bin/python" -c "import torchvision" 2>/dev/null && return 0
    "$dir/bin/pip" uninstall --quiet --yes torchvision
    site="$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    mkdir -p "$site/torchvision/transforms"
    printf '__version__ = "0.0.0"\n' >"$site/torchvision/__init__.py"
    printf 'class VisionDataset: ...\n\n\nclass CIFAR10: ...\n' >"$site/torchvision/datasets.py"
    : >"$site/torchvision/transforms/__init__.py"
    printf 'def to_tensor(image): raise NotImplementedError("stub")\n' >"$site/torchvision/transforms/functional.py"
}

make_peer() {
    local name="$1" wanted dir stamp log
    read -ra wanted <<<"$(recipe "$name")"
    [[ "$bare" == *" $name "* ]] || wanted+=("$torch" "${common[@]}")
    dir="$peers_dir/$name"
    stamp="$dir/.recipe"
    log="$peers_dir/$name.log"
    local text="${wanted[*]}"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$text" ]]; then
        echo "$name: already made"
        return 0
    fi
    echo "$name: making (log: .peers/$name.log)"
    rm -rf "$dir"
    {
        "$python" -m venv "$dir" &&
            printf '%s\n' "$torch" >"$dir/constraints.txt" &&
            first_torch "$name" "$dir" &&
            "$dir/bin/pip" install --quiet -c "$dir/constraints.txt" "${wanted[@]}" &&
            mend "$name" "$dir" &&
            "$dir/bin/python" -c "import $(modules "$name")"
    } >"$log" 2>&1 || return 1
    printf '%s' "$text" >"$stamp"
    echo "$name: made"
}

main() {
    local names=("$@") failed=() name
    [[ $# -eq 0 ]] && names=("${all[@]}")
    for name in "${names[@]}"; do
        if ! recipe "$name" >/dev/null; then
            echo "unknown peer '$name'; the peers are: ${all[*]}" >&2
            return 2
        fi
    done
    if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        echo "'$python' is not a Python 3.11; name one with PYTHON=..." >&2
        return 2
    fi
    mkdir -p "$peers_dir"
    for name in "${names[@]}"; do
        if ! make_peer "$name"; then
            failed+=("$name")
            echo "$name: FAILED; its log ends:" >&2
            tail -n 5 "$peers_dir/$name.log" | sed 's/^/    /' >&2
        fi
    done
    if [[ ${#failed[@]} -gt 0 ]]; then
        echo "failed: ${failed[*]}" >&2
        return 1
    fi
}

main "$@"
