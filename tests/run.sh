#!/usr/bin/env bash
#
# tests/run.sh: all tests, some minutes on two CPU cores.
#
#     bash tests/run.sh                       # all
#     bash tests/run.sh tests/test_bpe.py -x  # any arguments are pytest's
#
# What is needed beside torch (tests/requirements.txt) is looked for, and set up, as run.sh does it.

set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

export NEEDS='import regex, torch; torch.accelerator
import ipykernel, matplotlib, nbclient, numpy, pytest, rustbpe, tiktoken, tokenizers, transformers, xdist'
export REQUIREMENTS=tests/requirements.txt
python=$(bash run.sh --python)
unset NEEDS REQUIREMENTS
exec "$python" -m pytest -n 2 --dist loadfile ${1+"$@"}
