#!/usr/bin/env bash
# `make test`: runs every test and closes with a counted line. A failed part does not hide the
# parts behind it; the counted line comes last whatever happens, and the exit code tells.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

step() {
  local name=$1 start=$SECONDS
  shift
  echo "=== $name"
  if ! "$@" 2>&1 | tee -a "$log"; then
    echo "=== $name FAILED"
    failed=$((failed + 1))
  fi
  echo "=== $name took $((SECONDS - start)) s"
}

need_restic() {
  command -v restic >/dev/null && return
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends restic
}

step "stock restic" need_restic
step "programs, Kubernetes, images" make --no-print-directory testbed faulty
# Unit tests, decision tables, layers, drift, chart, vault, mover, testbed.
step "tests of one machine" cargo test --locked --release --workspace --exclude e2e --no-fail-fast -- \
  --skip two_clusters_a_partition_and_a_lost_site
step "testbed on real clusters" cargo test --locked --release -p testbed --test clusters -- --ignored
step "two clusters" cargo test --locked --release -p e2e --test two_clusters -- --run

# `test result: ok. 12 passed; 0 failed; 1 ignored; ...` of every runner.
read -r passed broken skipped < <(awk '
  /^test result: / { for (i = 2; i < NF; i++) {
    if ($(i + 1) ~ /^passed/) p += $i
    if ($(i + 1) ~ /^failed/) f += $i
    if ($(i + 1) ~ /^ignored/) s += $i } }
  END { print p + 0, f + 0, s + 0 }' "$log")
# A part that failed without saying how many tests did (it did not compile, say) counts as one.
if [ "$broken" -lt "$failed" ]; then broken=$failed; fi
if [ "$passed" -eq 0 ]; then broken=$((broken + 1)); fi
echo "$passed passed, $broken failed, $skipped skipped"
[ "$broken" -eq 0 ]
