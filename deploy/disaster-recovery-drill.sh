#!/bin/sh
# Disaster recovery, practised: a server with queued mail is backed up while it takes more, killed, and its state directory
# destroyed; the backup is restored into another one, a server is started on that, and every message that was
# acknowledged before the backup began must arrive there once, byte for byte.
#
#   deploy/disaster-recovery-drill.sh [RINGPOST [RINGPOST_LOAD]]
#
# RINGPOST and RINGPOST_LOAD, as arguments or in the environment, are the binaries; by default they are looked for in PATH.
# Also in the environment: MESSAGES before the backup (2000), LISTEN for mail (127.0.0.1:25252), ADMIN for health and metrics
# (127.0.0.1:28025), HOP, where nobody listens (127.0.0.1:9), WORK, a directory for everything (a new one below /tmp).
# Prints the seconds that each step took. Exits 0 only if nothing is missing, doubled or changed.
set -eu

RINGPOST=${1:-${RINGPOST:-ringpost}}
RINGPOST_LOAD=${2:-${RINGPOST_LOAD:-ringpost-load}}
MESSAGES=${MESSAGES:-2000}
LISTEN=${LISTEN:-127.0.0.1:25252}
ADMIN=${ADMIN:-127.0.0.1:28025}
HOP=${HOP:-127.0.0.1:9}
made=
if [ -z "${WORK:-}" ]; then
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/ringpost-drill.XXXXXX")
    made=$WORK
fi
mkdir -p "$WORK"
server=
load=

# Whatever happens, nothing of the drill is left running.
end() {
    status=$?
    trap - EXIT
    for process in $server $load; do
        kill -9 "$process" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ]; then
        echo "drill: FAILED; the end of the servers' logs:" >&2
        tail -n 20 "$WORK"/*.log >&2 2>/dev/null || true
    fi
    [ -z "$made" ] || rm -rf "$made"
    exit "$status"
}
trap end EXIT
trap 'exit 1' INT TERM HUP

now() { date +%s.%N; }

# step NAME SINCE: says how long it took.
step() { awk -v name="$1" -v since="$2" -v now="$(now)" 'BEGIN { printf "%-40s %7.2f s\n", name, now - since }'; }

# configure NAME TARGET...: a config file NAME.toml for a state directory NAME; the other arguments are lines of its target.
configure() {
    name=$1
    shift
    cat > "$WORK/$name.toml" <<END
[server]
hostname = "mx.example.com"
state_dir = "$WORK/$name"
[admin]
listen = "$ADMIN"
[spool]
# Small, so that segments are filled, let go and used again while they are copied.
segment_size = "1MiB"
batch_max = "256KiB"
inline_max = "32KiB"
[[listener]]
name = "mx"
address = ["$LISTEN"]
[[domain]]
name = "example.com"
recipients = "any"
target = "drill"
[[target]]
name = "drill"
END
    for line in "$@"; do
        echo "$line" >> "$WORK/$name.toml"
    done
}

# serve NAME: starts a server and waits until it takes mail.
serve() {
    starts=0
    tries=0
    until "$RINGPOST" status --config "$WORK/$1.toml" 2>/dev/null | head -n 1 | grep -Eq '^(READY|DEGRADED)'; do
        if [ -z "$server" ] || ! kill -0 "$server" 2>/dev/null; then
            # The sockets of a killed server go a moment after it, so the first start may find the address in use.
            starts=$((starts + 1))
            [ "$starts" -le 5 ] || { echo "drill: the server ends when it is started" >&2; exit 1; }
            "$RINGPOST" serve --config "$WORK/$1.toml" > "$WORK/$1.log" 2>&1 &
            server=$!
        fi
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "drill: the server does not come up" >&2; exit 1; }
        sleep 0.1
    done
}

started=$(now)
configure primary 'kind = "smtp"' "hosts = [\"$HOP\"]" 'tls = "off"'
configure standby 'kind = "maildir"' 'path = "mail/{domain}/{local}"'

since=$(now)
serve primary
step "the server is up" "$since"

since=$(now)
"$RINGPOST_LOAD" run --no-json --quiet --to "$LISTEN" --sessions 20 --messages "$MESSAGES" --messages-per-connection 10 \
    --size mix --acked "$WORK/acked.before"
step "$MESSAGES messages are queued" "$since"

# More mail comes while the backup is made. Some of it will be in the backup; what is not, is the price of the disaster.
"$RINGPOST_LOAD" run --no-json --quiet --to "$LISTEN" --sessions 5 --duration 60s --reconnect --size mix \
    --acked "$WORK/acked.during" > "$WORK/load.log" 2>&1 &
load=$!
since=$(now)
"$RINGPOST" backup --config "$WORK/primary.toml" --to "$WORK/backup" > "$WORK/backup.log"
step "backup, while mail comes" "$since"
since=$(now)
"$RINGPOST" backup --config "$WORK/primary.toml" --to "$WORK/backup" >> "$WORK/backup.log"
step "backup again, of what has changed" "$since"

kill -9 "$server"
wait "$server" 2>/dev/null || true
server=
kill -9 "$load" 2>/dev/null || true
wait "$load" 2>/dev/null || true
load=
rm -rf "$WORK/primary"

since=$(now)
"$RINGPOST" restore --config "$WORK/standby.toml" --from "$WORK/backup" > "$WORK/restore.log"
step "restore" "$since"
since=$(now)
"$RINGPOST" spool check --config "$WORK/standby.toml" > "$WORK/check.log"
step "every record and body file checked" "$since"

since=$(now)
serve standby
step "the other server is up" "$since"
since=$(now)
"$RINGPOST_LOAD" verify --acked "$WORK/acked.before" --maildir "$WORK/standby/mail" --verify-timeout 120s
step "everything has arrived, byte for byte" "$since"
kill "$server"
wait "$server"
server=
step "the drill in all" "$started"
echo "drill: passed: of $(wc -l < "$WORK/acked.before") acknowledged messages none is missing, doubled or changed"
