#!/bin/bash
# Fuzzes each target for SECONDS, starting from the committed corpus; what is found is written to
# build/corpus/TARGET and build/crash-TARGET-*. A crashing input belongs into tests/data/fuzz/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
cmake --preset clang -DPG_FUZZ=ON
cmake --build --preset clang
for program in build/clang/*_live; do
    name=$(basename "$program" _live)
    mkdir -p "build/corpus/$name"
    echo "== $name, $seconds s"
    "$program" "build/corpus/$name" "tests/data/fuzz/$name" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="build/crash-$name-" -print_final_stats=1
done
