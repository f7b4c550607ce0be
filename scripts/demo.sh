#!/usr/bin/env bash
# The main job from nothing, in about five minutes on two CPU cores: makes .venv once, draws a CT phantom in the KiTS
# layout, slices it, trains a teacher on the labels of 12 patients and a small student on those of 2, without and with
# distillation (three seeds each), scores all on the test volumes, prints a table, and writes a page about all of it,
# whose path is the last line. Everything lands in data/demo and runs/demo; a second call starts afresh.
source "$(dirname "$0")/environment.sh"
seeds="0 1 2"
rm -rf data/demo runs/demo

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# The student of a seed alone and distilled at once, on a core each.
students() {
  local student="--config configs/demo_student.yaml --seed $1 --mode both" log="runs/demo/student_$1.log" alone
  OMP_NUM_THREADS=1 python train.py $student --output "runs/demo/student_$1" >"$log" 2>&1 &
  alone=$!
  OMP_NUM_THREADS=1 python train_kd.py $student --output "runs/demo/distilled_$1" --teacher runs/demo/teacher/best.ckpt
  wait "$alone" || { cat "$log" && return 1; }
}

say "1/5 draw 24 patients in the KiTS layout (data/demo/raw)"
python scripts/MakePhantom.py --outpath data/demo/raw --layout kits --cases 24 --size 64 --slices 24 --seed 0 --jobs 2
say "2/5 slice them, split by patient (data/demo/slices)"
python scripts/SliceMaker.py --inpath data/demo/raw --outpath data/demo/slices --dataset kits --task all \
  --split 0.5 0.125 0.375 --jobs 2
say "3/5 teacher, with all labels"
python train.py --config configs/demo_teacher.yaml --mode both
for seed in $seeds; do
  say "4/5 student with the labels of 2 patients, seed $seed: distilled, and alone (runs/demo/student_$seed.log)"
  students "$seed"
done

say "5/5 test volumes"
list() { for seed in $seeds; do printf 'runs/demo/%s_%s,' "$1" "$seed"; done | sed 's/,$//'; }
python scripts/compare.py teacher=runs/demo/teacher "student=$(list student)" "distilled=$(list distilled)" \
  --against student
printf '\ncurves and pictures:  .venv/bin/tensorboard --logdir runs/demo\n'

say "the page about all of it"
python scripts/report.py --runs runs/demo/*/ --output runs/demo/report.html --repeats 1
