#!/usr/bin/env bash
# Makes the embedded weights: `bash checkpoints/train.sh DATA [OUT]`, where DATA holds the data sets that the card names.
# Needs requirements-train.txt and WordNet's database (Debian: wordnet-base). Runs that were stopped go on.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?"pass the folder of data sets"}
out=${2:-out/training}
python=${PYTHON:-.venv/bin/python}
"$python" -m ovdemo train clip --data "$data" --out "$out" --text-minutes 10 --minutes 30 --hold-out checkpoints/held-out.txt
"$python" -m ovdemo train segmenter --data "$data" --out "$out" --minutes 24 --hold-out checkpoints/held-out.txt
cp "$out"/fcclip-embedded.safetensors "$out"/fcclip-embedded-text.safetensors checkpoints/
