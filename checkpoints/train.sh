#!/usr/bin/env bash
# Makes the embedded weights: `bash checkpoints/train.sh DATA [OUT]`, where DATA holds the data sets that the card names.
# Needs requirements-train.txt and WordNet's database (Debian: wordnet-base). Runs that were stopped go on.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?"pass the folder of data sets"}
out=${2:-out/training}
train() { "${PYTHON:-.venv/bin/python}" -m ovdemo train "$@" --data "$data" --hold-out checkpoints/held-out.txt; }
train clip --out "$out/first" --text-minutes 10 --minutes 24
train segmenter --out "$out/first" --minutes 22
# Then both image tower and decoders go on from there, with a learning rate that starts high again.
train clip --out "$out/second" --start "$out/first/fcclip-embedded.safetensors" --minutes 56
train segmenter --out "$out/second" --start "$out/first/fcclip-embedded.safetensors" --minutes 45
cp "$out"/second/fcclip-embedded.safetensors "$out"/second/fcclip-embedded-text.safetensors checkpoints/
