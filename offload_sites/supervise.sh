# Part of every start script of a job: runs its command to the end, whatever signals come. The script
# has a function `finish CODE` that ends it.

stop() { # not by a name of our own: a signal may come when there is a child that has not got it yet
  [ -n "$!" ] || finish 143
  asked=yes
  kill -s TERM "$!" 2>/dev/null
}
trap stop TERM INT QUIT HUP

run() { # run WALLTIME_S GRACE_S COMMAND...: leaves the exit code in $code, 75 for a used up walltime
  walltime_s=$1 grace_s=$2
  shift 2
  begun=$(date +%s)
  if command -v timeout >/dev/null 2>&1; then set -- timeout -k "$grace_s" "$walltime_s" "$@"; fi
  asked=
  "$@" &
  code=
  while :; do
    if [ -n "$asked" ]; then
      # Once more: a signal is lost that comes between fork and exec.
      kill -0 "$!" 2>/dev/null && sleep 1 && kill -s TERM "$!" 2>/dev/null
    fi
    asked=
    wait "$!"
    got=$?
    # 127: a shell that forgets what it has told once. Else the newest word counts: a signal ends a
    # wait early, with a code of its own.
    [ "$got" -eq 127 ] && [ -n "$code" ] || code=$got
    [ -n "$asked" ] || break
  done
  # Not all programs of this name have a code of their own for it.
  [ $(($(date +%s) - begun)) -lt "$walltime_s" ] || code=75
}
