#!/usr/bin/env bash
# `make demo RUNTIME=kind`: the story of src/bin/demo.rs on kind and Docker, on a Linux machine whose containers the
# host can reach. KEEP=1 leaves the clusters up.
#
# CI has no Docker and never runs this script: it is checked only by kind's configuration parser, which reads
# kind-config.yaml (tests/chart.rs). The story itself is tested by `make demo` on the testbed.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

KEEP=${KEEP:-}
PROGRAMS=${CARGO_TARGET_DIR:-$PWD/target}/programs
NETWORK=${KIND_EXPERIMENTAL_DOCKER_NETWORK:-kind}
# Attestations make an index of the image, which `kind load` cannot always read.
export KIND_EXPERIMENTAL_PROVIDER=docker BUILDX_NO_DEFAULT_ATTESTATIONS=1

# As in src/binaries.rs, src/sites.rs (`Names::of("demo")`) and src/bin/demo.rs.
IMAGE=localhost/data-embassy:test
POSTGRES=localhost/postgres:test
declare -A NAMESPACE=([home]=demo-registers [embassy]=demo-estonia)
NAME=population-register
SECRET=luxembourg

RESULT=
WORK=
NEW_NETWORK=
CLUSTERS=()
IMAGES=()
LOAD=()

source tests/e2e/kind/lib.sh

build() {
  make --no-print-directory programs >&2
  IMAGES=("$IMAGE" "$POSTGRES")
  quiet limited 600 docker buildx build --load -t "$IMAGE" -f Containerfile --build-arg BINARY=embassy \
    "$PROGRAMS/release"
  quiet limited 900 docker buildx build --load -t "$POSTGRES" - <tests/e2e/kind/postgres.Containerfile
  limited 180 kubectl kustomize tests/e2e/kind/storage >"$WORK/storage.yaml"
}

start_cluster() {
  local config="$WORK/$1.kubeconfig"
  CLUSTERS+=("de-$1")
  quiet limited 900 kind create cluster --config kind-config.yaml --name "de-$1" --kubeconfig "$config" --wait 180s
  quiet limited 300 kind load docker-image "$IMAGE" "$POSTGRES" --name "de-$1"
}

install_storage() {
  local kind crds=()
  for kind in volumesnapshots volumesnapshotcontents volumesnapshotclasses; do
    crds+=("crd/$kind.snapshot.storage.k8s.io")
  done
  quiet at "$1" apply -f "$WORK/storage.yaml"
  quiet at "$1" wait --for=condition=Established --timeout=50s "${crds[@]}"
  quiet at "$1" apply -f tests/e2e/kind/storage/classes.yaml
  LIMIT=620 quiet at "$1" rollout status -n kube-system deployment/snapshot-controller --timeout=600s
  LIMIT=620 quiet at "$1" rollout status -n default statefulset/csi-hostpathplugin --timeout=600s
}

install_operator() {
  quiet limited 200 helm upgrade --install data-embassy charts/data-embassy-operator \
    --kubeconfig "$WORK/$1.kubeconfig" --namespace data-embassy-system --create-namespace --wait --timeout 180s \
    --set "image.repository=${IMAGE%:*},image.tag=${IMAGE##*:},image.pullPolicy=Never"
}

start_register() {
  quiet at home create namespace "${NAMESPACE[home]}"
  "$PROGRAMS/demo" --print-manifests >"$WORK/register.yaml"
  quiet at home apply -f "$WORK/register.yaml"
  wait_for "PostgreSQL to answer" 180 sql home postgres "select 1"
  quiet sql home postgres "create database register"
  quiet in_pod home pgbench -qis 1 register
  quiet sql home register \
    "create table acked (id bigint primary key, at timestamptz default clock_timestamp())"
}

pair() {
  local ip
  ip=$(node_ip embassy)
  [[ -n $ip ]] || die "the container $(node embassy) has no address in the network $NETWORK"
  quiet limited 120 "$PROGRAMS/kubectl-embassy" pair \
    --home-kubeconfig "$WORK/home.kubeconfig" --home-namespace "${NAMESPACE[home]}" \
    --embassy-kubeconfig "$WORK/embassy.kubeconfig" --embassy-namespace "${NAMESPACE[embassy]}" \
    --embassy-server "https://$ip:6443" --secret "$SECRET" --vault-storage-class encrypted
}

apply_data_embassy() {
  local ip
  ip=$(node_ip home)
  [[ -n $ip ]] || die "the container $(node home) has no address in the network $NETWORK"
  "$PROGRAMS/demo" --print-manifests "$ip" >"$WORK/data-embassy.yaml"
  quiet at home apply -f "$WORK/data-embassy.yaml"
}

# An application that writes row after row. A line of `acked`: number of the row, and when its answer came.
writer() {
  local id
  for ((id = 1; ; id++)); do
    echo "insert into acked (id) values ($id) returning id;"
    sleep 0.02
  done | kubectl --kubeconfig "$WORK/home.kubeconfig" exec -i -n "${NAMESPACE[home]}" postgres-0 -- \
    psql -qAtX -v ON_ERROR_STOP=1 -d register | while read -r id; do
    echo "$id ${EPOCHREALTIME/./}"
  done >"$WORK/acked"
}

# pgbench and the writer, each a process group of its own that ends with stop_load.
start_load() {
  set -m
  kubectl --kubeconfig "$WORK/home.kubeconfig" exec -n "${NAMESPACE[home]}" postgres-0 -- \
    pgbench -n -c 2 -T 3600 -R 100 register </dev/null >/dev/null 2>&1 &
  LOAD+=($!)
  writer </dev/null 2>/dev/null &
  LOAD+=($!)
  set +m
}

stop_load() {
  local group
  for group in "${LOAD[@]}"; do
    { kill -TERM -- "-$group" && wait "$group"; } 2>/dev/null || true
  done
  LOAD=()
}

proven() {
  local sequence
  sequence=$(mirror '{.status.lastDispatch.sequence}') && ((${sequence:-0} >= $1))
}

lose_home() {
  quiet docker update --restart=no "$(node home)"
  LOST=${EPOCHREALTIME/./}
  quiet docker network disconnect --force "$NETWORK" "$(node home)"
  quiet docker kill "$(node home)"
  say "HOME IS LOST: link cut and node killed"
  stop_load
}

# Shows the phases as they come until the embassy serves.
watch_promotion() {
  local end=$((SECONDS + 300)) now shown=
  until [[ $shown == Promoted* ]]; do
    now=$(mirror '{.status.phase}: {.status.promotion.step}' 2>>"$WORK/log") || now=
    now=${now%: }
    if [[ -n $now && $now != "$shown" ]]; then
      say "embassy: $now"
      shown=$now
    fi
    ((SECONDS < end)) || give_up "the embassy to be promoted" 300
    sleep 0.5
  done
}

# pgbench's own invariant: balances of accounts, tellers and branches and the history agree.
check_invariant() {
  local sums accounts tellers branches history rows
  sums=$(sql embassy register "select (select sum(abalance) from pgbench_accounts),
    (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches),
    (select coalesce(sum(delta), 0) from pgbench_history), (select count(*) from pgbench_history)")
  IFS='|' read -r accounts tellers branches history rows <<<"$sums"
  if [[ -z $accounts || $accounts != "$tellers" || $tellers != "$branches" || $branches != "$history" ]]; then
    die "the sums do not agree: $sums"
  fi
  say "embassy: pgbench's sums agree over $rows transactions"
}

# check_rows CUT: every row that was acknowledged before the cut is there. Sets CHECKED.
check_rows() {
  local missing
  awk -v cut="$1" '$2 < cut { print $1 }' "$WORK/acked" | sort >"$WORK/due"
  sql embassy register "select id from acked" >"$WORK/rows"
  sort -o "$WORK/rows" "$WORK/rows"
  CHECKED=$(wc -l <"$WORK/due")
  ((CHECKED > 0)) || die "no row was acknowledged before the cut: nothing was checked"
  missing=$(comm -23 "$WORK/due" "$WORK/rows" | wc -l)
  ((missing == 0)) || die "$missing rows acknowledged before the cut are missing"
  say "embassy: all $CHECKED rows acknowledged before the cut are there"
}

story() {
  local site recovery cut epoch
  say "builds operator, plugin and images (the first time takes minutes)"
  build
  for site in home embassy; do
    start_cluster "$site"
    say "$site: a kind cluster runs, de-$site"
    install_storage "$site"
    say "$site: volumes with snapshots. StorageClass \`encrypted\` is a stand-in that does NOT encrypt"
    install_operator "$site"
    say "$site: the operator is installed by helm"
  done
  start_register
  say "home: PostgreSQL runs, pgbench's tables are filled"
  pair
  say "home and embassy are paired (\`kubectl embassy pair\`)"
  apply_data_embassy
  say "home: DataEmbassy applied (arbiter Embassy, fence Scale accepted as best effort)"
  start_load
  say "home: pgbench and an application write all the time"
  wait_for "dispatch 1 to be proven" 600 proven 1
  say "embassy: first dispatch restored and proven (cut $(mirror '{.status.lastDispatch.cutTime}'))"
  wait_for "dispatch 3 to be proven" 600 proven 3
  say "embassy: dispatch $(mirror '{.status.lastDispatch.sequence} proven; epoch {.status.epoch}')"

  lose_home
  watch_promotion
  wait_for "PostgreSQL to answer in the embassy" 120 sql embassy postgres "select 1"
  recovery=$((${EPOCHREALTIME/./} - LOST))
  say "embassy: PostgreSQL answers, the register is served again"
  cut=$(mirror '{.status.lastDispatch.cutTime}')
  epoch=$(mirror '{.status.epoch}')
  [[ -n $cut ]] || die "the mirror names no cut"
  ((epoch % 2 == 1)) || die "epoch $epoch does not name the embassy"
  cut=$(date -d "$cut" +%s%6N)
  check_invariant
  check_rows "$cut"
  quiet sql embassy register "insert into acked (id) values (1000000000)"
  say "embassy: the register takes new writes"
  RESULT="demo: recovery_seconds=$(seconds "$recovery") data_loss_seconds=$(seconds $((LOST - cut)))"
  RESULT+=" epoch=$epoch rows_checked=$CHECKED invariant=ok"
}

try_next() {
  local site
  printf '\nThe clusters are still up. Try:\n'
  for site in home embassy; do
    echo "  KUBECONFIG=$WORK/$site.kubeconfig kubectl get de,rp,er,pods -A"
  done
  echo "  $PROGRAMS/kubectl-embassy status --kubeconfig $WORK/embassy.kubeconfig"
  echo "  docker network connect $NETWORK $(node home); docker start $(node home)    # home boots again: fenced"
  echo "  kind delete cluster --name de-home; kind delete cluster --name de-embassy; rm -r $WORK"
}

# Everything that was made here; false if something stays.
remove() {
  local cluster image code=0
  for cluster in "${CLUSTERS[@]}"; do
    limited 120 kind delete cluster --name "$cluster" --kubeconfig "$WORK/${cluster#de-}.kubeconfig" \
      >>"$WORK/log" 2>&1 || { echo "stays: kind cluster $cluster" >&2 && code=1; }
  done
  for image in "${IMAGES[@]}"; do docker image rm "$image" >/dev/null 2>&1 || true; done
  if [[ -n $NEW_NETWORK ]]; then docker network rm "$NEW_NETWORK" >/dev/null 2>&1 || true; fi
  rm -rf "$WORK"
  return "$code"
}

finish() {
  local code=$?
  trap '' INT TERM
  set +e
  stop_load
  if [[ $KEEP == 1 && ${#CLUSTERS[@]} -gt 0 ]]; then
    try_next
  elif remove; then
    say "everything that was started is gone again"
  else
    code=1
  fi
  ((code == 0)) || echo "demo failed (exit code $code)" >&2
  ((code != 0)) || echo "$RESULT"
  exit "$code"
}

require
refuse_leftovers
START=${EPOCHREALTIME/./}
WORK=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
story
