#!/usr/bin/env bash
#
# run.sh: raw text -> tokens -> two kinds of bigram model -> a transformer. The whole shebang.
#
#     bash run.sh             # learn from input.txt or, if there is none, from tiny Shakespeare
#     bash run.sh my.txt      # from a text of your own: a file, a folder, or a glob in quotes
#     bash run.sh --python    # only set up, and print the Python to use
#     RUN=my-gpt bash run.sh  # with a W&B key: continue the run of that name, on any machine
#     MAX_MINUTES=170 ...     # save, send and stop in time, where a machine is taken away
#
# 2 to 5 minutes on two CPU cores. Everything it makes is in out/, and nothing finished is made
# twice: stop it, kill it, start it again, and it goes on where it was. When done, it only shows.

set -euo pipefail

fail() { echo "run.sh: $1" >&2; exit "${2:-1}"; }

case ${1-} in
    "" | --python) text=input.txt ;;
    -h | --help) sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
    -*) fail "there is no flag $1: see  bash run.sh --help" ;;
    /*) text=$1 ;;
    *) text=$PWD/$1 ;;
esac
[ $# -le 1 ] || fail "one text at a time: put a glob in quotes, as in  bash run.sh 'data/*.txt'"
CDPATH='' cd "$(dirname "$0")"
text=${text#"$PWD/"}
case $text in
    input.txt | *[*?[]*) ;;                    # the first may be fetched yet
    *) [ -e "$text" ] || fail "there is no file or folder $text" ;;
esac

# bash reacts to a signal only after the command in the foreground, so what takes long runs in the
# background, and we wait. A signal goes on to it as SIGTERM: it saves and ends, and then so do we.
mkdir -p out
run() { "$@" & echo $! > out/pid; wait $! 2> /dev/null; }
pass_on() { kill -TERM "$(jobs -p)" 2> /dev/null || true; }
stop() {                                       # exit status, 128 + the signal's number
    trap pass_on INT TERM                      # a second signal: stop waiting for W&B
    pass_on
    while [ -n "$(jobs -pr)" ]; do wait || true; done
    fail "stopped: the same command goes on from here" "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM

models="bigram_counts bigram_nn bigram_nn_64 gpt"            # folders in out/, as in the ladder

# A run has a name at Weights & Biases: RUN, or one made from the text. out/ holds one run, and
# out/run its name, followed by "chosen" if that was typed as RUN.
has_run=; chosen=
if [ -e out/run ]; then read -r has_run chosen < out/run || true; fi
if [[ ${RUN-} = *[!A-Za-z0-9_./-]* ]]; then
    fail "RUN=$RUN: a run's name has letters, digits, . - and _"
fi
if [ -n "${RUN-}" ] && [ -n "$has_run" ] && [[ /$has_run != */"$RUN" ]]; then
    fail "out/ holds the run $has_run: RUN=$has_run goes on with it,\
 and another one begins after  mv out out-${has_run##*/}"
fi
[ "$chosen" != chosen ] || RUN=$has_run
host=${WANDB_BASE_URL:-https://api.wandb.ai}; host=${host#*://}; host=${host%%/*}
has_key() {                                    # in the environment, or where  wandb login  puts it
    [ "${WANDB_MODE:-online}" = online ] || return
    [ -n "${WANDB_API_KEY-}" ] || grep -qsF "$host" "${NETRC:-${HOME-}/.netrc}"
}

# --------------------------------------------------------------------------------------------------
# set-up: the first Python that can import what is needed, or else a .venv with requirements.txt

needs=${NEEDS:-import regex, torch; torch.accelerator}
requirements=${REQUIREMENTS:-requirements.txt}
newest_first="python3.14 python3.13 python3.12 python3.11 python3.10 python3 python"

can() { "$1" -c "import sys; assert sys.version_info >= (3, 10); $2" > /dev/null 2>&1; }

set_up() {
    active=${VIRTUAL_ENV:-${CONDA_PREFIX-}}    # an environment that you activated comes first
    for python in ${active:+python} .venv/bin/python python3 $newest_first; do
        if can "$python" "$needs"; then return; fi
    done
    if [ -e .venv/unfinished ] || {            # no pip: half made, unless uv made it
        [ -e .venv ] && ! can .venv/bin/python "import pip" && ! grep -qs ^uv .venv/pyvenv.cfg; }
    then
        echo "removing half a .venv"
        rm -rf .venv
    fi
    if [ ! -e .venv ]; then                    # one of your own is kept and added to
        for python in $newest_first none; do
            if can "$python" "import ensurepip, venv"; then break; fi
        done
        [ "$python" != none ] || fail "no Python here is 3.10 or newer and can make a .venv:\
 get python3-venv (\`sudo apt install python3-venv\`) on Debian and Ubuntu,\
 elsewhere a Python from python.org"
        mkdir .venv; touch .venv/unfinished
        run $python -m venv .venv || fail "$python could not make a .venv: see above"
    fi
    python=.venv/bin/python
    echo "installing $requirements into .venv: some GB, as on Linux torch comes with CUDA"
    run $python -m pip install -r "$requirements" ||
        fail "pip could not install $requirements: see above"
    can $python "$needs" ||
        fail "$requirements is installed, and yet this fails:  $python -c '$needs'"
    rm -f .venv/unfinished
}

if [ "${1-}" = --python ]; then set_up >&2; echo "$python"; exit; fi
echo "=== set-up: minutes, the first time ==="
set_up
echo "$("$python" -V) as $python"

# --------------------------------------------------------------------------------------------------
# text: yours, or input.txt; without one tiny Shakespeare; offline, Python's own manual

url=https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
sha256=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed

fetch() {                                      # url -> input.txt.tmp; exit status as curl's
    if command -v curl > /dev/null
    then run curl -fsL --connect-timeout 10 --max-time 60 -o input.txt.tmp $url
    else run "$python" -c '
import sys, urllib.request
try:
    open("input.txt.tmp", "wb").write(urllib.request.urlopen(sys.argv[1], timeout=10).read())
except Exception as error:
    sys.exit(60 if "SSL" in str(error) else 7)' $url; fi
}

if [ -n "${RUN-}" ] && [ ! -e out/gpt/state.pt ] && has_key; then
    echo; echo "=== what W&B has of $RUN ==="
    here=$text; [ $# = 1 ] || here=out/data
    run "$python" gpt.py --sync "--run=$RUN" --input "$here" ||
        fail "nothing is lost: the same command tries again"
fi
if [ $# = 0 ] && [ -d out/data ]; then text=out/data; fi

echo; echo "=== text: a few seconds ==="
if [ "$text" = input.txt ] && [ ! -e input.txt ]; then
    status=0; fetch || status=$?
    case $status in
        0)  "$python" -c '
from hashlib import sha256
print(sha256(open("input.txt.tmp", "rb").read()).hexdigest())' | grep -q $sha256 ||
                fail "$url did not send tiny Shakespeare (wrong checksum): save a text as input.txt"
            echo "input.txt: tiny Shakespeare" ;;
        35 | 5[1348] | 60 | 66 | 77 | 8[023] | 9[01])        # curl: TLS or a certificate failed
            fail "no secure connection (SSL error, curl $status; a proxy? the clock?) to $url:\
 save a text as input.txt" ;;
        *)  "$python" -c '
from pydoc_data.topics import topics
text = "\n\n".join(topics[name] for name in sorted(topics))
open("input.txt.tmp", "w", encoding="utf-8").write(text)'
            echo "input.txt: Python's own language reference, as tiny Shakespeare is out of reach\
 (no network: curl $status)" ;;
    esac
    mv input.txt.tmp input.txt                 # only now, so that it is never half a file
fi
echo "learning from $text"

# --------------------------------------------------------------------------------------------------
# tokenizer: text -> out/tokenizer.json. What came from another text or tokenizer moves to out/old-N

fingerprints() {                               # text, tokenizer -> 16 hex digits each, or "none"
    "$python" -c '
from bpe import *
@plainly
def main():
    try:
        tokenizer = Tokenizer.load("out/tokenizer.json").fingerprint
    except UserError:
        tokenizer = "none"
    print(checksum(read(sys.argv[1])), tokenizer)
main()' "$text"
}

row() {                                        # prints out/$1's row; 1: unfinished, 3: outdated
    "$python" -c '
import json, math, os, sys
folder, now = sys.argv[1:]
r = json.load(open(folder + "/result.json"))
if [r["text"], r["tokenizer"]] != now.split():
    sys.exit(3)
assert os.path.getsize(folder + "/model.pt")
print("{model:24}{parameters:>12,}{val_bpb:>19.3f}{ppl:>22,.1f}{seconds:>15,.1f} s".format(
    ppl=math.exp(r["val_loss"]), **r))
' "out/$1" "$now" 2> /dev/null
}

aside() {                                      # out/gpt -> out/old-1/gpt
    if [ -z "${old-}" ]; then
        n=1; while [ -e out/old-$n ]; do n=$((n + 1)); done
        old=out/old-$n; mkdir $old
    fi
    echo "$2: $1 moves to $old"; mv "$1" "$old/"
}

# After a kill -9 of run.sh its stage lives on. Two would spoil each other's files: stop that first.
before=$(cat out/pid 2> /dev/null || true)
at_work() { ps -p "$before" -o command= 2> /dev/null | grep -q -e "\.py --input"; }
if at_work; then
    echo; echo "stopping process $before, which an earlier run.sh left running"
    kill -TERM "$before"
    while at_work; do sleep 0.2; done
fi

echo; echo "=== tokenizer: a second per megabyte ==="
now=$(fingerprints)
was=$(cat out/made-from 2> /dev/null || true)  # the same, of when out/ was made
case $was in
    "" | "$now") why="the text or the tokenizer changed" ;;
    "${now% *} "*) why="the tokenizer changed" ;;
    *) why="the text changed" ;;
esac
if [ -e out/tokenizer.json ]; then             # the old text's goes; one you made since then stays
    if [ "${now#* }" = none ]; then
        aside out/tokenizer.json "the tokenizer is damaged"
    elif [ "${now#* }" = "${was#* }" ] && [ "$now" != "$was" ]; then
        aside out/tokenizer.json "$why"
    fi
fi
if [ ! -e out/tokenizer.json ]; then
    run "$python" bpe.py --input "$text" || fail "stage bpe failed: see above"
    now=$(fingerprints)
fi
for model in $models; do
    status=0; row $model > /dev/null || status=$?
    if [ $status = 1 ] && [ -n "$was" ] && [ "$now" != "$was" ]; then
        status=3                               # unfinished, and begun on what was there before
    fi
    if [ -e out/$model ] && [ $status = 3 ]; then aside out/$model "$why"; fi
done
# new value, old value, file: written if they differ
remember() { [ "$1" = "$2" ] || { echo "$1" > "$3.tmp"; mv "$3.tmp" "$3"; }; }
remember "$now" "$was" out/made-from           # last: after a kill, all this is done again
shopt -s extglob; stem=${text%/}; stem=${stem##*/}; stem=${stem%.*}      # gpt.py's name for the run
stem=${stem//+([^A-Za-z0-9])/-}; is_run="${stem:0:33}-${now:0:6}"
[ -z "${RUN-}" ] || is_run="$RUN chosen"
remember "$is_run" "$has_run${chosen:+ $chosen}" out/run
echo "out/tokenizer.json is there"

# --------------------------------------------------------------------------------------------------
# models: each is trained, unless it is there and whole, and speaks

stage() {
    model=$1; said=out/$1/samples.txt; shift
    if ! row "$model" > /dev/null; then
        rm -f "$said" "out/$model/result.json"               # damaged, it would pass for finished
        session=
        if [ $model = gpt ]; then
            session="${RUN:+--run=$RUN} ${MAX_MINUTES:+--max-minutes $MAX_MINUTES}"
        fi
        status=0; run "$python" "$@" --input "$text" $session || status=$?
        if [ $status = 0 ] && ! row "$model" > /dev/null; then
            if [ -n "${MAX_MINUTES-}" ]; then
                echo; echo "$MAX_MINUTES minutes are over: the same command goes on from here"; exit
            fi
            status=1
        fi
        [ $status = 0 ] || fail "stage $model ended unfinished (exit status $status):\
 the same command goes on from here" $status
    fi
    if [ "$said" -ot "out/$model/model.pt" ]; then           # older, or not there at all
        run "$python" "$@" --sample --max-new-tokens 100 > "$said.tmp" ||
            fail "stage $model cannot speak: see above"
        mv "$said.tmp" "$said"
    fi
    echo "--- out/$model says:"; cat "$said"
}

tracked() {                                    # sends what W&B, or its record in out/wandb, lacks
    [ "${WANDB_MODE-}" != disabled ] || return 0
    for model in $models; do
        result=out/$model/result.json sent=out/wandb/sent-${model//_/-}
        [ -e $result ] || continue
        if [ "$sent" -ot $result ] || { has_key && ! grep -q online "$sent"; }; then
            run "$python" gpt.py --sync --input "$text" ${RUN:+--run=$RUN} || true
            return                             # that sends all of them
        fi
    done
}

echo; echo "=== a bigram model, counted: seconds ==="
stage bigram_counts bigram_counts.py

echo; echo "=== the same model, learned: seconds ==="
stage bigram_nn bigram_nn.py

echo; echo "=== a bigram model with 64 numbers per token, not a row of its own: seconds ==="
stage bigram_nn_64 bigram_nn.py --n-embd 64

tracked
echo; echo "=== a transformer: 2 to 4 minutes on two CPU cores ==="
stage gpt gpt.py
tracked

echo; echo "=== the ladder ==="
printf '%-24s%12s%19s%22s%17s\n' model parameters "val bits per byte" "perplexity per token" "training time"
for model in $models; do row $model; done
echo; echo "=== the curves ==="
"$python" gpt.py --plot || fail "stage plot failed: see above"
if grep -qs offline out/wandb/sent-gpt; then
    echo; echo "Everything is recorded in out/wandb. With a key  bash run.sh  sends it, and so does\
  wandb sync out/wandb/offline-run-*"
fi
echo; echo "It speaks to you:  $python gpt.py --sample --prompt \"The \""
