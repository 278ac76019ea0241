#!/bin/bash
# Measures the verifier as docs/performance.md describes it and prints the
# figures: the example's verifier in a directory of its own, loaded from the
# same machine. Usage: scripts/performance.sh [seconds of each interval [entries
# of the log]]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30} entries=${2:-1000000}
dir=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
pid=
go build -o "$dir/" ./cmd/cocoon-verifier ./cmd/hammer
cp -r examples "$dir/examples"
cd "$dir"
./cocoon-verifier --config examples/verifier.yaml 2> log &
pid=$!
url=
for _ in $(seq 100); do
	url=$(sed -n 's/.*msg="verifier ready".* url=\([^ ]*\).*/\1/p' log)
	[ -n "$url" ] && break
	sleep 0.1
done
[ -n "$url" ] || { cat log >&2; exit 1; }
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'
echo "$(nproc) CPUs, load $(cut -d' ' -f1-3 /proc/loadavg), $(cd "$OLDPWD" && go version)"
for kind in tdx snp gpu; do
	echo "== $kind, as fast as answers come"
	./hammer -verifier "$url" -duration "${seconds}s" -type "$kind" 2>/dev/null
done
echo "== tdx, 70 % of the capacity"
./hammer -verifier "$url" -duration "${seconds}s" -load 0.7 2>/dev/null
echo "== tdx, 10 times the capacity"
./hammer -verifier "$url" -duration "${seconds}s" -load 10 2>/dev/null
kill "$pid"
wait "$pid" || true
echo "== journal and log afterwards"
./cocoon-verifier fsck build/verifier/journal
cd "$OLDPWD"
echo "== log of $entries entries"
COCOON_JOURNAL_SOAK=$entries go test ./verifier/journal -run TestSoak -v -count 1 -timeout 30m | grep soak_test
