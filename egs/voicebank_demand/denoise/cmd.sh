# What the long steps ask of a SLURM cluster (./run.sh --cmd slurm); edit it for yours.
train_resources="--ntasks=1 --cpus-per-task=8 --gres=gpu:1 --mem=32G"
train_launcher=""
enhance_resources="--ntasks=1 --cpus-per-task=8 --mem=8G"
. ../../utils/cmd.sh
