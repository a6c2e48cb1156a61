#!/bin/sh
# The file that ships, from the binary32 one: ship.sh F32.gguf OUT.gguf [coldstream]. Below 12 MB.
set -eu
exec "${3:-build/release/coldstream}" quantize "$1" "$2" Q6_K \
    --tensor-type 'ffn_down_exps=Q5_1' --tensor-type 'token_embd=Q8_0' --tensor-type 'ffn_gate_inp=F32'
