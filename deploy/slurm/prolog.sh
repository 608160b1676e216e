#!/bin/sh
# Slurm's Prolog, for sites where a node has one daemon for all jobs: before a job that asked for the feature `rudder`
# (--constraint=rudder) it starts rudderd.service, which returns when fetches are served. It fails, and Slurm takes the
# node out of service and holds the job, when the daemon does not start. slurm.conf: Prolog=..., PrologFlags=Alloc,
# PrologEpilogTimeout above the 300 s here.
set -u
export PATH=/usr/bin:/bin
jobs=/run/rudder-jobs

case ",$(echo "${SLURM_JOB_CONSTRAINTS:-}" | tr -c '[:alnum:]_\n-' ',')," in
  *,rudder,*) ;;
  *) exit 0 ;;
esac

mkdir -p "$jobs" || exit 1
# Counting jobs and stopping the daemon must not happen at the same time: the epilog of another job takes the same lock.
exec 9> "$jobs/.lock"
flock 9
: > "$jobs/$SLURM_JOB_ID"
if ! timeout 300 systemctl start rudderd.service; then
  rm -f "$jobs/$SLURM_JOB_ID"
  echo "rudderd.service did not start on ${SLURMD_NODENAME:-this node}: journalctl -u rudderd" >&2
  exit 1
fi
