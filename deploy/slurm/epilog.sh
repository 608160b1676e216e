#!/bin/sh
# Slurm's Epilog beside prolog.sh: after the last job on the node that asked for the feature `rudder`, the daemon is drained and stopped.
# Jobs that had not asked left no mark, and nothing happens.
set -u
export PATH=/usr/bin:/bin
jobs=/run/rudder-jobs

[ -e "$jobs/$SLURM_JOB_ID" ] || exit 0
exec 9> "$jobs/.lock"
flock 9
rm -f "$jobs/$SLURM_JOB_ID"
if [ -z "$(ls "$jobs")" ]; then
  systemctl stop rudderd.service
fi
