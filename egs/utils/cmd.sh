# Sourced by a recipe's cmd.sh: where the long steps run. Sets train_cmd and enhance_cmd, used as
# `$train_cmd audiomask train ...`. What they ask of SLURM can be set before, there, for a recipe that needs other than:
: "${train_resources=--ntasks=1 --cpus-per-task=8 --gres=gpu:1 --mem=32G}" # options of sbatch
: "${train_launcher=}"                                                     # srun, for a training of several tasks
: "${enhance_resources=--ntasks=1 --cpus-per-task=8 --mem=8G}"

# cmd is an option of run.sh: local, or slurm.
case $cmd in
  local) train_cmd="" enhance_cmd="" ;;
  slurm)
    train_cmd="../../utils/slurm.sh $exp/log/train.log --job-name=train $train_resources -- $train_launcher"
    enhance_cmd="../../utils/slurm.sh $exp/log/enhance.log --job-name=enhance $enhance_resources --" ;;
  *) echo "$0: error: --cmd $cmd: want local or slurm" >&2; exit 2 ;;
esac
