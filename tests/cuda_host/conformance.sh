#!/bin/sh
# The emulator against a real device: conformance.sh EMULATOR_PROGRAM FOLDER. Exit 77 (skipped) without nvcc or without a device.
set -eu
emulated=$1 folder=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
"$emulated" write "$folder/conformance.bin"
if [ ! -x "$nvcc" ]; then
    echo "SKIPPED: no nvcc (CUDACXX, PATH, /usr/local/cuda/bin): the emulator was not compared with a device"
    exit 77
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
    echo "SKIPPED: no GPU (nvidia-smi -L): the emulator was not compared with a device"
    exit 77
fi
"$nvcc" -std=c++17 -O3 -arch=native -cudart static -I "$root" -I "$root/runtime" -o "$folder/conformance" \
    "$root/tests/cuda_host/conformance.cu"
exec "$folder/conformance" check "$folder/conformance.bin"
