#!/usr/bin/env bash
# Makes the embedded weights: `bash checkpoints/train.sh DATA [OUT]`, where DATA holds the data sets that the card names.
# Needs requirements-train.txt. Runs that were stopped go on.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?"pass the folder of data sets"}
out=${2:-out/training}
train() { "${PYTHON:-.venv/bin/python}" -m ovdemo train "$@" --data "$data" --hold-out checkpoints/held-out.txt; }
train clip --out "$out/first" --text-minutes 10 --minutes 24
train segmenter --out "$out/first" --minutes 22
# Then both image tower and decoders go on from there, with a learning rate that starts high again.
first=$out/first/fcclip-embedded.safetensors
train clip --out "$out/second" --start "$first" --text-minutes 0 --minutes 56
train segmenter --out "$out/second" --start "$first" --minutes 45
# And all three once more.
second=$out/second/fcclip-embedded.safetensors
train clip --out "$out/third" --start "$second" --text-minutes 21 --minutes 48
train segmenter --out "$out/third" --start "$second" --minutes 42
# And a fourth time.
third=$out/third/fcclip-embedded.safetensors
train clip --out "$out/fourth" --start "$third" --text-minutes 28 --minutes 45
train segmenter --out "$out/fourth" --start "$third" --minutes 31
# And image tower and decoders a fifth time; the text tower stays.
fourth=$out/fourth/fcclip-embedded.safetensors
train clip --out "$out/fifth" --start "$fourth" --text-minutes 0 --minutes 52
train segmenter --out "$out/fifth" --start "$fourth" --minutes 27
# And a sixth time, mostly the decoders.
fifth=$out/fifth/fcclip-embedded.safetensors
train clip --out "$out/sixth" --start "$fifth" --text-minutes 0 --minutes 32
train segmenter --out "$out/sixth" --start "$fifth" --minutes 66
# And a seventh time, from blended photographs.
sixth=$out/sixth/fcclip-embedded.safetensors
train clip --out "$out/seventh" --start "$sixth" --text-minutes 0 --minutes 64
train segmenter --out "$out/seventh" --start "$sixth" --minutes 34
cp "$out"/seventh/fcclip-embedded.safetensors "$out"/seventh/fcclip-embedded-text.safetensors checkpoints/
