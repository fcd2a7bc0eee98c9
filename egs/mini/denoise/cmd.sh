# Where the training runs: here, or on a SLURM cluster (one task; lightning reads the rest from SLURM's variables).
train_cmd=""
# train_cmd="srun --job-name=denoise --ntasks=1 --cpus-per-task=8 --gres=gpu:1 --mem=16G"
