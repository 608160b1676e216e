#!/bin/sh
# Slurm's Epilog for prolog.sh: drains and stops the daemon after the last job on the node that asked for the feature
# `rudder`. Other jobs left no mark, and it does nothing.
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
