#!/bin/sh
# Measures a llama-server beside SLED: same model file, same prompts, same lengths, temperature 0, in one run.
#
#   scripts/peer.sh PATH/TO/llama-server [MODEL[,MODEL...]] [more flags of `sled bench serve`]
set -eu
if [ $# -lt 1 ]; then
    echo "usage: scripts/peer.sh PATH/TO/llama-server [MODEL] [more flags of sled bench serve]" >&2
    exit 2
fi
server=$1
shift
model=qwen2.5-coder-1.5b
if [ $# -gt 0 ]; then
    model=$1
    shift
fi
exec "${SLED:-sled}" bench serve --modes central,sled,llama-server,control --llama-server "$server" -m "$model" "$@"
