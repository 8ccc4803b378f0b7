# Sourced by the testbed's scripts: places, progress, packages, and processes known by their pid.
# shellcheck shell=bash disable=SC2016,SC2034
set -euo pipefail
umask 022
export PYTHONDONTWRITEBYTECODE=1
TESTBED=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/interlink-offload-tests
PY=${TESTBED_PYTHON:-$CACHE/venv/bin/python} # needs aiohttp, PyJWT with crypto, trustme, htcondor
T0=${TESTBED_T0:-${EPOCHREALTIME/[.,]/}}; export TESTBED_T0=$T0

say() { local t=$(((${EPOCHREALTIME/[.,]/} - T0) / 100000)); printf '[%3d.%ds] %s\n' $((t / 10)) $((t % 10)) "$*"; }
die() { say "$*" >&2; exit 1; }

use_state() { # use_state [DIR]: argument, else $TESTBED_STATE, else the last one brought up, else the default
  STATE=${1:-${TESTBED_STATE:-$(readlink "$CACHE/state" || echo /var/lib/interlink-offload-tests)}}
}

open_state() { # create the state folder, remember it, and keep other runs of `up` and `down` on it out
  mkdir -p "$CACHE" "$STATE/run" "$STATE/log"
  STATE=$(cd "$STATE" && pwd)
  export TESTBED_STATE=$STATE
  ln -sfn "$STATE" "$CACHE/state"
  [ "${TESTBED_LOCKED:-}" = "$STATE" ] && return
  exec 9>"$STATE/lock"
  flock -w 900 9 || die "another up or down holds $STATE/lock"
  export TESTBED_LOCKED=$STATE
}

in_turn() { # in_turn COMMAND...: while nobody else adds to $CACHE; it may take minutes
  ( flock -n 8 || { say "waiting for what else is being built"; flock 8; }; "$@" ) 8>"$CACHE/lock"
}

need_pkg() { # need_pkg PACKAGE...: install the Debian packages that are missing
  local missing=() p
  for p in "$@"; do [ "$(dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p"); done
  [ ${#missing[@]} = 0 ] && return
  say "apt-get install ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

mirror() { # the Debian archive this machine itself installs from
  [ -n "$(apt-get indextargets --format '$(SITE)')" ] || apt-get -qq update
  apt-get indextargets --format '$(SITE) $(CODENAME)' |
    awk -v c="$(. /etc/os-release && echo "$VERSION_CODENAME")" '$2 == c { print $1; exit }'
}

bootstrap() { # bootstrap DIR SUITE PACKAGES [mmdebstrap argument...]: build DIR once, all or nothing
  [ -e "$1" ] || in_turn _bootstrap "$@"
}
_bootstrap() {
  local dir=$1 suite=$2 packages=$3; shift 3
  [ -e "$dir" ] && return
  need_pkg mmdebstrap
  rm -rf "$dir.tmp"; mkdir -p "$dir.tmp"
  apt-config dump | grep -iE '^Acquire::(https?|Check-)' >"$dir.apt" || true # proxy, TLS and date settings
  # its own namespaces: whatever dies, no mount and no process stays behind
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
    mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt="$dir.apt" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$@" "$suite" "$dir.tmp" "deb $(mirror) $suite main" ${EXTRA_SUITE:+"deb $(mirror) $EXTRA_SUITE main"} </dev/null
  rm -f "$dir.apt"; mv "$dir.tmp" "$dir"
}

need_venv() { # the python environment of the issuer and of the selftest
  [ -z "${TESTBED_PYTHON:-}" ] || return 0
  [ -e "$CACHE/venv/ok" ] || in_turn _need_venv
}
_need_venv() {
  [ -e "$CACHE/venv/ok" ] && return
  say "python environment: building"
  rm -rf "$CACHE/venv"
  python3 -m ensurepip --version >/dev/null 2>&1 || need_pkg python3-venv
  python3 -m venv "$CACHE/venv"
  "$PY" -m pip -q install aiohttp 'pyjwt[crypto]' trustme 'htcondor>=25' </dev/null
  touch "$CACHE/venv/ok"
  say "python environment: ready"
}

started_at() { # start time of a live process in clock ticks; nothing for a dead or defunct one
  local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  read -ra s <<<"${s##*) }"
  [ "${s[0]}" = Z ] || echo "${s[19]}"
}
record() { echo "$2 $(started_at "$2")" >"$STATE/run/$1.pid"; } # record NAME PID
alive() { # alive NAME: is the very process that was recorded still there? (sets PID)
  local since
  [ -e "$STATE/run/$1.pid" ] && read -r PID since <"$STATE/run/$1.pid" &&
    [ -n "$since" ] && [ "$(started_at "$PID")" = "$since" ]
}
start() { # start NAME COMMAND...: detached, output to log/NAME.log
  local name=$1; shift
  setsid "$@" </dev/null >>"$STATE/log/$name.log" 2>&1 9>&- &
  record "$name" $!
}
stop() { # stop NAME: TERM, and KILL after 10 s, to the recorded process only
  if alive "$1"; then
    kill -TERM "$PID" || true
    for _ in {1..100}; do alive "$1" || break; sleep 0.1; done
    while alive "$1"; do kill -KILL "$PID" || true; sleep 0.1; done
    say "stopped $1"
  fi
  rm -f "$STATE/run/$1.pid"
}
wait_for() { # wait_for SECONDS NAME COMMAND...: until COMMAND succeeds while NAME is alive
  local end=$((SECONDS + $1)) name=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    alive "$name" || die "$name died, see $STATE/log/$name.log"
    [ $SECONDS -lt $end ] || die "$name is not healthy after a long wait, see $STATE/log"
    sleep 0.2
  done
}

enter_root() { # enter_root NAME ROOTFS CVMFS_DIR DIR...: first process of a mount and pid namespace: recorded as NAME, it
  # goes on in ROOTFS, read-only, with the folders DIR of $STATE. Killing it ends all of it.
  local name=$1 root=$2 cvmfs=$3 host_pid dir; shift 3
  read -r host_pid _ </proc/self/stat # /proc is still the machine's: this is the pid seen from outside
  record "$name" "$host_pid"
  mount --make-rprivate /
  mount --bind "$root" "$root"
  mount -o remount,bind,ro "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs tmpfs "$root/run"
  for dir in "$@"; do mount --bind "$STATE/$dir" "$root/$dir"; done
  mount --rbind "$cvmfs" "$root/cvmfs"
  mount --bind "$STATE/hosts" "$root/etc/hosts"
  cd "$root" || exit
}
leave_old_root() { # after enter_root, and what else is to be mounted below the current folder
  pivot_root . .
  umount -l .
  cd /
}
