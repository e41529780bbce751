#!/usr/bin/env bash
# Writes linker/order.ld again, from what a casebridge between stand-ins executes. Needs valgrind, curl and six
# minutes. Run it when `cargo bench -- memory` shows more than before: after a new compiler or larger changes. Names
# that no longer exist do no harm.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

# Valgrind has no vDSO, where rustix would look for the clock.
export RUSTFLAGS=--cfg=rustix_use_libc CARGO_TARGET_DIR=target/order CARGO_PROFILE_RELEASE_STRIP=false
cargo build --release --locked
casebridge=$PWD/target/order/release/casebridge

folder=$(mktemp -d)
pids=()
end() {
  kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -r "$folder"
}
trap end EXIT

# Waits until the file has a line like this, for two minutes at most.
wait_for() {
  for _ in {1..600}; do
    if grep -q "$1" "$2" 2>/dev/null; then return; fi
    sleep 0.2
  done
  cat "$2"
  exit 1
}

"$casebridge" demo >"$folder/demo.log" &
pids+=($!)
wait_for 'demo.env' "$folder/demo.log"
# shellcheck disable=SC1090
. "$(grep -o '/[^ ;]*/demo.env' "$folder/demo.log")"

export PORT=18499 PUBLIC_URL=http://127.0.0.1:18499 DATABASE_URL=sqlite://$folder/casebridge.db
# Starts casebridge, and records which functions it executes as NAME.
start() {
  valgrind --tool=cachegrind --cache-sim=no --demangle=no --cachegrind-out-file="$folder/$1.executed" \
    "$casebridge" serve >"$folder/$1.log" 2>&1 &
  service=$!
  pids+=("$service")
  wait_for 'event="subscribed"' "$folder/$1.log"
}
stop() {
  kill "$service"
  wait "$service"
}
start idle
curl -fsS "http://127.0.0.1:$PORT/healthz" >"$folder/answer"
sleep 20
stop
start label
curl -fsS "http://127.0.0.1:$PORT/createTicket" -H "Authorization: Bearer $NOTIFICATION_BEARER_TOKEN" \
  -H 'Content-Type: application/json' -d @tests/fixtures/stream-item-label-applied-twitter.json >"$folder/answer"
wait_for 'event="delivery_done"' "$folder/label.log"
stop

# The sections of our functions in a record. The hashes in their names differ between compilers.
nm --defined-only "$casebridge" | cut -d' ' -f3 | sort >"$folder/defined"
sections() {
  sed -n 's/^fn=//p' "$1" | sort | comm -12 - "$folder/defined" |
    sed -E 's/17h[0-9a-f]{16}E.*/17h*/; /^_R/s/Cs[0-9A-Za-z]+_/Cs*_/g; s/.*/    *(.text.&)/' | uniq
}
sections "$folder/idle.executed" >"$folder/idle"
sections "$folder/label.executed" | grep -vxFf "$folder/idle" >"$folder/label"

cat >"$folder/order.ld" <<END
/* What a running service executes, so that it lies together: for each page that is used, the kernel maps the 64 KiB
   around it as well. Written by linker/order.sh, and passed to the linker by build.rs. */
SECTIONS
{
  .text.service :
  {
    /* The start, and idling */
$(cat "$folder/idle")
    /* From a label to its ticket */
$(cat "$folder/label")
    /* What the compiler takes for rare: small, and some of it is executed at each start */
    *(.text.unlikely.*)
    /* TLS, which the stand-ins do not speak */
    *(.text._ZN6rustls* .text._ZN6webpki* .text.*ring_core* .text._ZN4ring*)
  }
}
INSERT BEFORE .text;
END
mv "$folder/order.ld" linker/order.ld
