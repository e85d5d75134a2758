#!/usr/bin/env bash
# Measures what the project claims of one GPU, in one call of less than ten minutes:
#
#     benchmarks/on_gpu.sh CLONE FOLDER [options of launch.py ...]
#
# CLONE is a clone of hw-du/EMKD. Install the extra `torch`, and JAX and PyTorch for the GPU, first.
# FOLDER gets a JSON file and the logs of every part:
#
#     released   training and evaluation beside the original, as released
#     training   the whole training and its test
#     plan       memory, work and roofline of the train step on this GPU
#     tuned      beside the original with TF32
#     step       where the time of a train step of the variant `best` goes
#     peers      SASRec of this project, RecTools and RecBole, for a minute each; Toys alone, where
#                the options have --config.data.source=FOLDER
#
# Parts that have a JSON file are not measured again, and training resumes, so a second call
# continues where the first one ran out of time. Variables of the environment: CONFIG
# (configs/toys.py), PYTHON (python), SECONDS_LEFT (570).
set -u
if [ $# -lt 2 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
    exit 2
fi
clone=$(realpath "$1") folder=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.." || exit 1
CONFIG=${CONFIG:-configs/toys.py}
mkdir -p "$folder" || exit 1
export JAX_COMPILATION_CACHE_DIR="$folder/compiled"
failed=0

# part NAME SCRIPT FLAGS...: runs a script, and its last line of output becomes NAME.json.
part() {
    local name=$1 left=$((${SECONDS_LEFT:-570} - SECONDS)) began=$SECONDS
    shift
    if [ -s "$folder/$name.json" ]; then
        echo "$name: already measured"
        return
    fi
    if [ $left -gt 0 ] && timeout --kill-after=20 $left "${PYTHON:-python}" "$@" \
        > "$folder/$name.out" 2> "$folder/$name.log"; then
        tail -n 1 "$folder/$name.out" > "$folder/$name.json"
        echo "$name: done in $((SECONDS - began)) s"
    else
        echo "$name: no result after $((SECONDS - began)) s; $(tail -qn 1 "$folder/$name.log")"
        failed=1
    fi
}

# launch NAME FLAGS...: a part that is a mode of launch.py.
launch() {
    local name=$1
    shift
    part "$name" launch.py "--config=$CONFIG" "--workdir=$folder/$name" "$@"
}

source=
for option; do
    case "$option" in --config.data.source=*) source=${option#*=} ;; esac
done
launch released --mode=benchmark "--pytorch_repo=$clone" "$@"
launch training --mode=train "$@"
launch plan --mode=plan "$@"
launch tuned --mode=benchmark "--pytorch_repo=$clone" --torch_tuned "$@"
part step benchmarks/step_profile.py "--config=${CONFIG%%:*}:best" "$@"
case "${CONFIG%%:*}:$source" in
    *toys*:?*) part peers benchmarks/peers.py "$folder/peers" "--source=$source" --minutes=1 ;;
    *) echo 'peers: left out; they need Toys and --config.data.source=FOLDER' ;;
esac
# The figures of the training, and of the peers, are in their folders.
[ -s "$folder/training.json" ] && cp "$folder/training/results.json" "$folder/training.json"
[ -s "$folder/peers.json" ] && cp "$folder/peers/peers.json" "$folder/peers.json"
exit $failed
