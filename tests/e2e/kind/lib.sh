# Helpers of kind-demo.sh, which sets the variables and sources this.
# shellcheck shell=bash disable=SC2153,SC2154

# Millionths of a second as seconds.
seconds() { printf '%d.%d' $(($1 / 1000000)) $(($1 % 1000000 / 100000)); }

say() { printf '%7ss  %s\n' "$(seconds $((${EPOCHREALTIME/./} - START)))" "$*"; }

die() {
  echo "error: $*" >&2
  exit 1
}

# Runs one command; what it printed is shown only when it fails.
quiet() {
  local code=0
  "$@" >>"$WORK/log" 2>&1 || code=$?
  if ((code != 0)); then
    tail -n 20 "$WORK/log" >&2
    die "exit code $code of: $*"
  fi
}

# Runs one program, at most so many seconds.
limited() { timeout --foreground --kill-after=10 "$@"; }

# kubectl at one site; LIMIT=seconds before it gives it another time than a minute.
at() { limited "${LIMIT:-60}" kubectl --kubeconfig "$WORK/$1.kubeconfig" "${@:2}"; }

in_pod() { LIMIT=30 at "$1" exec -n "${NAMESPACE[$1]}" postgres-0 -- "${@:2}"; }

# sql SITE DATABASE STATEMENT
sql() { in_pod "$1" psql -qAtX -v ON_ERROR_STOP=1 -d "$2" -c "$3"; }

# A field of the DataEmbassy as the embassy shows it.
mirror() { LIMIT=10 at embassy get dataembassies.dataembassy.io "$NAME" -n "${NAMESPACE[embassy]}" -o "jsonpath=$1"; }

# wait_for WHAT SECONDS COMMAND...: until it succeeds, two looks a second.
wait_for() {
  local what=$1 limit=$2 end=$((SECONDS + $2))
  shift 2
  until "$@" >>"$WORK/log" 2>&1; do
    ((SECONDS < end)) || give_up "$what" "$limit"
    sleep 0.5
  done
}

# Shows how things stand, then fails.
give_up() {
  local site
  for site in home embassy; do
    echo "--- $site"
    limited 15 "$PROGRAMS/kubectl-embassy" status --kubeconfig "$WORK/$site.kubeconfig" || true
    LIMIT=15 at "$site" get pods -A || true
  done >&2
  die "waited $2 s for $1"
}

node() { echo "de-$1-control-plane"; }

# Address of a node's container: pods cannot reach the 127.0.0.1 of kind's kubeconfigs.
node_ip() { docker inspect -f "{{(index .NetworkSettings.Networks \"$NETWORK\").IPAddress}}" "$(node "$1")"; }

require() {
  local missing=0 tool
  need() { command -v "$1" >/dev/null || { echo "missing: $1 ($2)" >&2 && missing=1; }; }
  ((BASH_VERSINFO[0] >= 5)) || { echo "missing: bash 5 or newer" >&2 && missing=1; }
  need docker "Docker Engine 23 or newer"
  need kind "with nodes of Kubernetes 1.30 or newer"
  need kubectl "1.30 or newer"
  need helm "Helm 3"
  need cargo "Rust 1.91 or newer"
  for tool in make timeout awk comm; do need "$tool" "of any Linux"; done
  if command -v docker >/dev/null; then
    timeout 30 docker info >/dev/null 2>&1 || { echo "missing: an answer of the Docker daemon" >&2 && missing=1; }
    docker buildx version >/dev/null 2>&1 || { echo "missing: docker buildx (Docker's plugin)" >&2 && missing=1; }
  fi
  ((missing == 0)) || exit 1
}

# What this script did not make it must not remove.
refuse_leftovers() {
  local clusters site
  clusters=$(kind get clusters 2>/dev/null) || die "\`kind get clusters\` fails"
  for site in home embassy; do
    if [[ $'\n'$clusters$'\n' == *$'\n'"de-$site"$'\n'* ]]; then
      die "there is a kind cluster de-$site already: kind delete cluster --name de-$site"
    fi
  done
  docker network inspect "$NETWORK" >/dev/null 2>&1 || NEW_NETWORK=$NETWORK
}
