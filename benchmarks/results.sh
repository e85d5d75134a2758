#!/usr/bin/env bash
# Measures what the project claims of the method, on all three data sets:
#
#     benchmarks/results.sh FOLDER [options of launch.py ...]
#
# For each data set: the released and the published hyper-parameters with three seeds, a sweep and
# its best combination on validation, the three studies, a student of the published ensemble, and
# the cost of a second seed. Every part has its workdir in FOLDER and its figures in FOLDER/results.
# Start the script again as often as needed: finished parts are not run again, and a part that was
# stopped continues. Install the extra `report` and JAX for the accelerator first. Variables of the
# environment: SETS (toys beauty ml_1m), VARIANT (empty; :quick for small models), TOGETHER (largest
# number of runs that train together, 6; lower it to save memory), PYTHON (python).
set -u
if [ $# -lt 1 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
    exit 2
fi
folder=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$folder/results" || exit 1
export JAX_COMPILATION_CACHE_DIR="$folder/compiled"
python=${PYTHON:-python}
together=--config.train.max_together=${TOGETHER:-6}
failed=0

# done_before NAME: succeeds if the part has a result.
done_before() { [ -s "$folder/results/$1.json" ]; }

# keep FILE NAME: copies FILE to the results, without the path of the folder.
keep() { [ ! -f "$1" ] || sed "s#$folder#FOLDER#g" "$1" > "$folder/results/$2"; }

# part NAME FILE ARGUMENTS...: runs Python with the arguments; FILE becomes the result, and so do
# the report and the plot of a study.
part() {
    local name=$1 file=$2 began=$SECONDS
    shift 2
    done_before "$name" && return
    if "$python" "$@" > "$folder/$name.out" 2> "$folder/$name.log"; then
        keep "$folder/$name/report.md" "$name.md"
        [ ! -f "$folder/$name/systems.png" ] ||
            cp "$folder/$name/systems.png" "$folder/results/$name.png"
        keep "$folder/$file" "$name.json"
        echo "$name: done in $((SECONDS - began)) s"
    else
        echo "$name: not finished after $((SECONDS - began)) s; $(tail -qn 1 "$folder/$name.log")"
        failed=1
    fi
}

for set in ${SETS:-toys beauty ml_1m}; do
    config=--config=configs/$set.py${VARIANT:-}
    seeds=--config.train.num_seeds=3
    if [ -z "${VARIANT:-}" ]; then
        part "$set-released" "$set-released/results.json" launch.py "$config:released" \
            "--workdir=$folder/$set-released" $seeds "$together" "$@"
    fi
    part "$set-published" "$set-published/results.json" launch.py "$config" \
        "--workdir=$folder/$set-published" $seeds "$together" "$@"
    part "$set-sweep" "$set-sweep/results.json" launch.py "$config" \
        "--workdir=$folder/$set-sweep" '--config.sweep.dropout=(0.2,0.3,0.5)' \
        '--config.sweep.learning_rate=(5e-4,1e-3)' '--config.sweep.temperature=(0.3,1.0)' \
        "$together" "$@"
    if done_before "$set-sweep"; then
        # The combination that is best on validation comes first.
        best=$("$python" -c 'if True:
            import json, sys
            best = json.load(open(sys.argv[1]))["tried"][0]["settings"]
            print(*(f"--config.{option}={value}" for option, value in best.items()))
        ' "$folder/results/$set-sweep.json")
        # shellcheck disable=SC2086
        part "$set-tuned" "$set-tuned/results.json" launch.py "$config" \
            "--workdir=$folder/$set-tuned" $best $seeds "$together" "$@"
    fi
    for study in ablation generality ensemble_size; do
        part "$set-$study" "$set-$study/study.json" launch.py "$config" --mode=study \
            "--study=$study" "--workdir=$folder/$set-$study" $seeds "$together" "$@"
    done
    if done_before "$set-published"; then
        part "$set-student" "$set-published/seed_0/student/distillation.json" launch.py distill \
            "--workdir=$folder/$set-published/seed_0" "$@"
    fi
    part "$set-seeds" "$set-seeds.cost" benchmarks/seeds.py "$config" \
        "--output=$folder/$set-seeds.cost" "$@"
done
exit $failed
