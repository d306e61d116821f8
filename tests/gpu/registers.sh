#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# What the compiler says of each kernel, as a table: registers, static shared memory and bytes spilled, for one architecture.
#
#   registers.sh BUILD [sm_90]     BUILD: where cu.flags and cu_hopper.flags lie (build/release); sm_90 has kernels for sm_90a too
set -eu
cd "${0%/*}/../.."
build=$1 arch=${2:-sm_90}
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
echo "| kernel, $arch | registers | static shared bytes | spilled bytes |"
echo "|---|---|---|---|"
for file in engine/cuda/*.cu; do
    flags=$build/cu.flags
    case $file in *_hopper.cu) flags=$build/cu_hopper.flags ;; esac
    "$nvcc" --options-file "$flags" -Xptxas -v -c -o /dev/null "$file" 2>&1 | c++filt |
        awk -v arch="$arch" '
            /Compiling entry function/ { match($0, /function .*/); name = substr($0, RSTART + 10); sub(/.? for .*/, "", name); sub(/\(.*/, "", name); sub(/^void /, "", name); here = $0 ~ "for .?" arch }
            /bytes spill stores/ { for (i = 1; i < NF; i++) if ($(i + 1) == "bytes" && $(i + 2) == "spill") spilled += $i }
            /Used [0-9]+ registers/ {
                match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
                shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
                if (here) print "| `" name "` | " registers " | " shared " | " spilled + 0 " |"
                spilled = 0
            }'
done
