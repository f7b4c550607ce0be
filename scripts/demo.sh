#!/usr/bin/env bash
# The main job from nothing, in about five minutes on two CPU cores: makes .venv once, draws a CT phantom in the KiTS
# layout, slices it, trains a teacher, trains a small student without and with distillation (two seeds each), scores all
# on the test volumes, prints a table, and writes a page about all of it, whose path is the last line. Everything lands
# in data/demo and runs/demo; a second call starts afresh.
source "$(dirname "$0")/environment.sh"
seeds="0 1"
rm -rf data/demo runs/demo

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/5 draw 16 patients in the KiTS layout (data/demo/raw)"
python scripts/MakePhantom.py --outpath data/demo/raw --layout kits --cases 16 --size 96 --slices 32 --seed 0 --jobs 2
say "2/5 slice them, split by patient (data/demo/slices)"
python scripts/SliceMaker.py --inpath data/demo/raw --outpath data/demo/slices --dataset kits --task all \
  --split 0.5 0.125 0.375 --jobs 2
say "3/5 teacher"
python train.py --config configs/demo_teacher.yaml --mode both
for seed in $seeds; do
  say "4/5 student alone, seed $seed"
  python train.py --config configs/demo_student.yaml --seed "$seed" --output "runs/demo/student_$seed" --mode both
  say "5/5 student distilled with EMKD, seed $seed"
  python train_kd.py --config configs/demo_student.yaml --loss_type emkd --teacher runs/demo/teacher/best.ckpt \
    --seed "$seed" --output "runs/demo/distilled_$seed" --mode both
done

say "test volumes"
list() { for seed in $seeds; do printf 'runs/demo/%s_%s,' "$1" "$seed"; done | sed 's/,$//'; }
python scripts/compare.py teacher=runs/demo/teacher "student=$(list student)" "distilled=$(list distilled)" \
  --against student
printf '\ncurves and pictures:  .venv/bin/tensorboard --logdir runs/demo\n'

say "the page about all of it"
python scripts/report.py --runs runs/demo/*/ --output runs/demo/report.html --repeats 1
