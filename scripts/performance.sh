#!/bin/bash
# Measures the verifier as docs/performance.md describes it and prints the
# figures: the example's verifier in a directory of its own, loaded from the
# same machine. Usage: scripts/performance.sh [seconds of each interval [entries
# of the log]]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30} entries=${2:-1000000}
dir=$(mktemp -d "${PERFORMANCE_DIR:-${TMPDIR:-/tmp}}/performance.XXXXXX")
pid=
stop() {
	[ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; }
	pid=
}
trap 'stop; rm -rf "$dir"' EXIT
version=$(go version)
go build -o "$dir/" ./cmd/cocoon-verifier ./cmd/hammer
cp -r examples "$dir/examples"
cd "$dir"

start() {
	./cocoon-verifier --config examples/verifier.yaml 2> log &
	pid=$!
	url=
	for _ in $(seq 600); do
		url=$(sed -n 's/.*msg="verifier ready".* url=\([^ ]*\).*/\1/p' log)
		[ -z "$url" ] || return 0
		sleep 0.1
	done
	cat log >&2
	return 1
}
measure() {
	echo "== $1"
	shift
	./hammer -verifier "$url" -duration "${seconds}s" "$@" 2>> hammer.log || { cat hammer.log >&2; exit 1; }
}

grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'
echo "$(nproc) CPUs, load $(cut -d' ' -f1-3 /proc/loadavg), $version"
# What the machine can do: every figure is to be read beside this one.
go test -run '^$' -bench 'Verify/P256$' -benchtime 0.5s crypto/ecdsa | grep ^Bench
start
measure 'tdx, as fast as answers come, 32 connections' -concurrency 32
measure 'tdx, 16 connections'
measure 'snp, 16 connections' -type snp
measure 'snp with a gpu, 16 connections' -type gpu
measure 'tdx, 70 % of the capacity' -load 0.7
measure 'tdx, 10 times the capacity' -load 10
stop
echo '== journal and log afterwards'
./cocoon-verifier fsck build/verifier/journal
echo "== $entries entries more"
./hammer -fill build/verifier/journal,build/verifier/journal.key,localhost/verifier -entries "$entries" 2>> hammer.log
start
measure 'tdx, 32 connections, with the large log' -concurrency 32
measure 'tdx, 70 % of the capacity, with the large log' -load 0.7
stop
