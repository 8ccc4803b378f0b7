#!/bin/sh
# Starts one job of interlink-offload at an HTCondor site. POSIX sh and coreutils; runs on the bare
# node, or, in HTCondor's container universe, inside the container. Lines in @...@ are filled in by
# submit.py. It holds no secret: others at the site can read it.
#
# What the command prints lies in the files `stdout` and `stderr` of the scratch directory while it
# runs; only the ends of them go back: a CE keeps what a job has printed until somebody fetches it,
# and hands it out as a whole only.
#
# A line that begins with "offload-start:" says why a job could not be started; exit codes 71 to 73
# go with it. 75: the walltime was used up. Any other code is the command's own, or apptainer's: 255,
# with a line that begins with "FATAL:".

# @settings@

key=$1
shift
secrets="$*"

finish() { # what goes back to the CE in place of the secrets is empty
  for name in $secrets; do : >"$name"; done
  [ ! -e stdout ] || tail -c "$log_bytes" stdout
  [ ! -e stderr ] || tail -c "$log_bytes" stderr >&2
  rm -rf tmp stdout stderr
  exit "$1"
}

fail() {
  echo "offload-start: $2" >&2
  finish "$1"
}

put() { # put NAME VALUE: into the environment of the command, in a container or not
  export "$1=$2" "APPTAINERENV_$1=$2" "SINGULARITYENV_$1=$2"
}

scratch=${_CONDOR_SCRATCH_DIR:-$PWD}
cd "$scratch" || exit 71
umask 077
# @supervise@

for name in $secrets; do chmod 600 "$name"; done
mkdir -p tmp || fail 73 "no space in the scratch directory of this node"
put OFFLOAD_JOB "$key"
put TMPDIR "$scratch/tmp"
for name in OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS CPU_LIMIT; do
  put "$name" "$cpus"
done
put MEM_LIMIT "$memory_bytes"
# A node may reach the world through a proxy only; and HTCondor says which GPUs are this job's.
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY $gpu_variables; do
  eval "value=\${$name-}"
  [ -z "$value" ] || put "$name" "$value"
done
export HOME="${HOME:-$scratch}"
# @environment@

# @command@

if [ -n "$image" ]; then
  # Some sites have apptainer in CVMFS only.
  for runtime in apptainer singularity \
    /cvmfs/oasis.opensciencegrid.org/mis/apptainer/bin/apptainer ''; do
    [ -n "$runtime" ] || fail 71 "this node has neither apptainer nor singularity"
    if command -v "$runtime" >/dev/null 2>&1; then break; fi
  done
  case $image in
    /*) [ -e "$image" ] || fail 72 "the image $image is not on this node" ;;
  esac
  export APPTAINER_NO_EVAL=1 SINGULARITY_NO_EVAL=1 # a dollar in a variable is a dollar
  # @container@
fi

code=73 # if there is no room for what it prints
run "$walltime_s" 20 "$@" >stdout 2>stderr
finish "$code"
