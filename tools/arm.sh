#!/bin/bash
# Builds for ARM in build/arm and runs under qemu-user the tests that can run there: `make arm`. Needs gcc-aarch64-linux-gnu
# and qemu-user; the libraries are Debian's for arm64, unpacked into build/arm-root. Nothing is installed, and apt's own
# lists stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/packages.sh
need gcc-aarch64-linux-gnu qemu-user cmake ninja-build pkg-config python3
root=$PWD/build/arm-root

# Downloads with a state of its own, as if this machine were an empty one of that kind.
unpack()
{
    local apt=$PWD/build/arm-apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root.new"
    : >"$apt/status"
    cat >"$apt/conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Debug::NoLocking "true";
END
    APT_CONFIG=$apt/conf apt-get update >build/arm-apt.log 2>&1
    APT_CONFIG=$apt/conf apt-get install -y --no-install-recommends --download-only libjansson-dev libpcre2-dev \
        libcmocka-dev liburing-dev libmd-dev libutf8proc-dev libopenblas0-pthread libevent-dev libedit-dev \
        >>build/arm-apt.log 2>&1
    for deb in "$apt"/cache/archives/*.deb; do
        dpkg -x "$deb" "$root.new"
    done
    # What Debian's alternatives would do.
    ln -s openblas-pthread/libopenblas.so.0 "$root.new/usr/lib/aarch64-linux-gnu/"
    mv "$root.new" "$root"
}

if [ ! -d "$root" ]; then
    rm -rf "$root.new"
    unpack || { echo "no packages for arm64: see build/arm-apt.log" >&2; exit 77; }
fi
cmake -S . -B build/arm -G Ninja -DPG_WERROR=ON -DPG_ARM_ROOT="$root" -DCMAKE_TOOLCHAIN_FILE=tools/arm.cmake
cmake --build build/arm
# The others take minutes there; what they check does not depend on the processor.
ctest --test-dir build/arm --parallel "$(nproc)" --output-on-failure --timeout 300 \
    -R 'kern/|unit/(test_(base|quant|vocab|vocab_files|nfc|gate|train_parts|kv|steps)|make_vocabs)$'
