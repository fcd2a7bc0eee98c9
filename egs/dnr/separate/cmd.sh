# What the long steps ask of a SLURM cluster (./run.sh --cmd slurm) can be set here, as egs/utils/cmd.sh says.
. ../../utils/cmd.sh
