#!/usr/bin/env bash
# Makes the embedded weights: `bash checkpoints/train.sh DATA [OUT]`, where DATA holds the data sets that the card names.
# Needs requirements-train.txt. Runs that were stopped go on.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?"pass the folder of data sets"}
out=${2:-out/training}
train() { "${PYTHON:-.venv/bin/python}" -m ovdemo train "$@" --data "$data" --hold-out checkpoints/held-out.txt; }
# Each later stage goes on from where the one before ended, with a learning rate that starts high again: its name, where
# it starts, and the minutes of text tower, image tower and decoders.
stage() {
  local start=$out/$2/fcclip-embedded.safetensors
  train clip --out "$out/$1" --start "$start" --text-minutes "$3" --minutes "$4"
  train segmenter --out "$out/$1" --start "$start" --minutes "$5"
}
train clip --out "$out/first" --text-minutes 10 --minutes 24
train segmenter --out "$out/first" --minutes 22
stage second first 0 56 45
stage third second 21 48 42
stage fourth third 28 45 31
stage fifth fourth 0 52 27
stage sixth fifth 0 32 66
stage seventh sixth 0 64 34
stage eighth seventh 0 70 40
cp "$out"/eighth/fcclip-embedded.safetensors "$out"/eighth/fcclip-embedded-text.safetensors checkpoints/
