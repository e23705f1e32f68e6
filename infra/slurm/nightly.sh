#!/usr/bin/env bash
# A night on Slurm: a Ray over all nodes of the allocation, then nightcap nightly on it. scrontab: 0 22 * * * sbatch nightly.sh job.yaml
#
# To change: nodes, CPUs, GPUs, time and partition below; NIGHTCAP, the environment that `nightcap` is installed in (Ray 2.60.0 on all nodes).
#SBATCH --job-name=nightcap
#SBATCH --dependency=singleton
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
set -euo pipefail

NIGHTCAP=${NIGHTCAP:-$HOME/nightcap/.venv}
JOB=${1:?usage: sbatch nightly.sh job.yaml}
PATH=$NIGHTCAP/bin:$PATH
export RAY_AUTH_MODE=token
# One token a night, for these processes only: other users of the nodes reach Ray's ports.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000))
gpus=${SLURM_GPUS_ON_NODE:-0}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --disable-usage-stats &
sleep 20
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" \
    ray start --block --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --disable-usage-stats &
done
sleep 10

# The exit code of the job is the night's: 0 done, 1 unfinished, 2 wrong request, 3 unlike the nights before.
nightcap nightly "$JOB" --address "$head:$port" "${@:2}"
