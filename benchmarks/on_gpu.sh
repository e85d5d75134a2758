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
mkdir -p "$folder" || exit 1
export JAX_COMPILATION_CACHE_DIR="$folder/compiled"
failed=0

# part NAME FLAGS...: runs launch.py, and its last line of output becomes NAME.json.
part() {
    local name=$1 left=$((${SECONDS_LEFT:-570} - SECONDS)) began=$SECONDS
    shift
    if [ -s "$folder/$name.json" ]; then
        echo "$name: already measured"
        return
    fi
    if [ $left -gt 0 ] && timeout --kill-after=20 $left "${PYTHON:-python}" launch.py \
        "--config=${CONFIG:-configs/toys.py}" "--workdir=$folder/$name" "$@" \
        > "$folder/$name.out" 2> "$folder/$name.log"; then
        tail -n 1 "$folder/$name.out" > "$folder/$name.json"
        echo "$name: done in $((SECONDS - began)) s"
    else
        echo "$name: no result after $((SECONDS - began)) s; $(tail -qn 1 "$folder/$name.log")"
        failed=1
    fi
}

part released --mode=benchmark "--pytorch_repo=$clone" "$@"
part training --mode=train "$@"
part plan --mode=plan "$@"
part tuned --mode=benchmark "--pytorch_repo=$clone" --torch_tuned "$@"
# The figures of the training are in its workdir.
[ -s "$folder/training.json" ] && cp "$folder/training/results.json" "$folder/training.json"
exit $failed
