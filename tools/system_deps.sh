#!/bin/sh
# The system packages of the R side. Python alone needs none of them.
#   system_deps.sh          as root on Debian or Ubuntu: installs what is missing; anyone else is told the one line to type
#   system_deps.sh install  installs what is missing (through sudo where needed), or fails
#   system_deps.sh seurat5  as root on Debian: also a Debian root with Seurat 5, for the tests (once)
set -eu
cd "$(dirname "$0")/.."
required="r-base-dev r-cran-seurat r-cran-reticulate r-cran-testthat r-cran-cli r-cran-rlang r-cran-matrix r-bioc-singlecellexperiment r-cran-rmarkdown pandoc"

missing() { for p in $required; do dpkg -s "$p" >/dev/null 2>&1 || printf '%s ' "$p"; done; }

install() {  # with $1 = sudo or nothing
    echo "installing system packages: $(missing)"
    export DEBIAN_FRONTEND=noninteractive
    $1 apt-get update -qq </dev/null
    # shellcheck disable=SC2046
    $1 apt-get install -y -qq --no-install-recommends $(missing) </dev/null >/dev/null
}

python_alone() { echo "$1; going on with Python alone"; [ -z "${CI:-}" ]; }  # under CI, less than everything is a failure

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    needed="R >= 4.2 with the packages Seurat, reticulate, testthat, cli and rlang"
    [ "${1:-}" = install ] && { echo "install $needed by your system's own means" >&2; exit 1; }
    command -v Rscript >/dev/null || echo "no R here: install $needed to use the R side; going on with Python alone"
    exit 0
fi

case "${1:-}" in
    install)
        [ -z "$(missing)" ] && exit 0
        if [ "$(id -u)" = 0 ]; then install ""; else install sudo; fi ;;
    seurat5)
        [ "$(id -u)" = 0 ] && grep -q '^ID=debian' /etc/os-release && [ -x tests/seurat5/root.sh ] || exit 0
        tests/seurat5/root.sh || python_alone "the Debian root with Seurat 5 could not be made: its tests are skipped" ;;
    *)
        [ -z "$(missing)" ] && exit 0
        if [ "$(id -u)" = 0 ]; then
            install "" || python_alone "the system packages could not be installed"
        else
            echo "for the R side type: make system-deps    (missing: $(missing)); going on with Python alone"
        fi ;;
esac
