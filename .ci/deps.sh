#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# deps.sh PURPOSE...: sees to it that what the named purposes need is there. Silent and quick when nothing is missing.
# Root on Debian or Ubuntu: installs what is missing, and only that. Anyone else: one command to run is printed, status 4.
# This runs before anything is installed, so it asks for nothing beyond sh, awk and coreutils.
set -eu

# purpose, Debian's package, and how to see that the thing is there although the package is not (own build, other system).
# Recommended packages are never installed, so what is only recommended and needed all the same stands here by name.
table() {
    cat <<'END'
gcc    gcc                 gcc --version
clang  clang-14            clang-14 --version
clang  libclang-rt-14-dev  ls "$(clang-14 -print-resource-dir)"/lib/*/libclang_rt.fuzzer*
cuda   g++                 g++ --version
build  libc6-dev           test -e /usr/include/stdlib.h
build  pkg-config          pkg-config --version
build  libgsl-dev          pkg-config --exists gsl
build  libinih-dev         pkg-config --exists inih
build  libjansson-dev      pkg-config --exists jansson
build  libhdf5-dev         pkg-config --exists hdf5-serial
build  libzstd-dev         pkg-config --exists libzstd
build  libxxhash-dev       pkg-config --exists libxxhash
build  zlib1g-dev          pkg-config --exists zlib
build  libpcre2-dev        pkg-config --exists libpcre2-8
build  libutf8proc-dev     pkg-config --exists libutf8proc
build  libopenblas-dev     pkg-config --exists openblas
test   libcmocka-dev       pkg-config --exists cmocka
test   g++                 g++ --version
demo   gnuplot-nox         gnuplot --version
demo   fonts-dejavu-core   fc-list | grep -q .
fuzz   llvm-14             llvm-symbolizer-14 --version
format clang-format        clang-format --version
lint   clang-tidy          clang-tidy --version
lint   cppcheck            cppcheck --version
docs   mandoc              command -v mandoc
END
}

purposes=" $* "
for purpose; do
    table | grep -q "^$purpose " || { echo "deps: unknown purpose '$purpose'; known are $(table | awk '{ print $1 }' | uniq | xargs)" >&2; exit 2; }
done
wanted=$(table | awk -v purposes="$purposes" 'index(purposes, " " $1 " ") { print $2 }')
[ -n "$wanted" ] || exit 0
# shellcheck disable=SC2086,SC2016 # a list of words; dpkg-query's own variables
installed=" $(dpkg-query -W -f '${Package}=${db:Status-Status}\n' $wanted 2>/dev/null | sed -n 's/=installed$//p' | xargs) "

missing=$(table | while read -r purpose package probe; do
    case $purposes in *" $purpose "*) ;; *) continue ;; esac
    case $installed in *" $package "*) continue ;; esac
    sh -c "$probe" </dev/null >/dev/null 2>&1 || echo "$package"
done | xargs)
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "deps: missing, by Debian's names: $missing; install them and try again" >&2
    exit 4
fi
# Bare images come without package lists; lists can also be so old that the files they name are gone.
set -- /var/lib/apt/lists/*_Packages*
[ -e "$1" ] && update= || update='apt-get update'
if [ "$(id -u)" -ne 0 ]; then
    echo "deps: packages are missing; to install them run" >&2
    echo "    ${update:+sudo $update && }sudo apt-get install --no-install-recommends $missing" >&2
    exit 4
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() {
    apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}
# shellcheck disable=SC2086 # a list of words
install() {
    apt install -y --no-install-recommends $missing
}
echo "deps: installing $missing" >&2
{ [ -z "$update" ] && install; } || { apt update || :; install; } || {
    cat "$log" >&2
    echo "deps: cannot install $missing; the lines above say why" >&2
    exit 4
}
