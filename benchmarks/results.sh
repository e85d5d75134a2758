#!/usr/bin/env bash
# Everything that is claimed of the method, on all three data sets:
#
#     benchmarks/results.sh FOLDER [options of launch.py ...]
#
# For each set, with three seeds: the released and the published hyper-parameters, the best of a
# sweep on validation, the three studies, a student of the published ensemble, and what the second
# seed costs. Every part keeps its workdir in FOLDER, and its figures in FOLDER/results. A part that
# is finished is not run again and one that was stopped goes on, so start it again as often as
# needed. requirements-report.txt and JAX for the accelerator are installed. From the environment:
# SETS (toys beauty ml_1m), VARIANT (none; :quick for small models), TOGETHER (6 runs at a time, for
# the memory), PYTHON (python).
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

# done_before NAME: is there a result?
done_before() { [ -s "$folder/results/$1.json" ]; }

# keep FILE NAME: FILE becomes a result, without the place it came from.
keep() { [ ! -f "$1" ] || sed "s#$folder#FOLDER#g" "$1" > "$folder/results/$2"; }

# part NAME FILE COMMAND...: runs it; FILE and a study's report and plot become results.
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
        # The best on validation stands first.
        best=$("$python" - "$folder/results/$set-sweep.json" << 'END'
import json, sys
rooms = {'dropout': 'model', 'learning_rate': 'optimizer'}
for option, value in json.load(open(sys.argv[1]))['tried'][0]['settings'].items():
    print(f'--config.{rooms.get(option, "objective")}.{option}={value}')
END
        )
        # shellcheck disable=SC2086
        part "$set-tuned" "$set-tuned/results.json" launch.py "$config" \
            "--workdir=$folder/$set-tuned" $best $seeds "$together" "$@"
    fi
    for study in ablation generality ensemble_size; do
        part "$set-$study" "$set-$study/study.json" launch.py "$config" --mode=study \
            "--study=$study" "--workdir=$folder/$set-$study" $seeds "$together" "$@"
    done
    if done_before "$set-published"; then
        part "$set-student" "$set-published/seed_0/student/distillation.json" launch.py "$config" \
            --mode=distill "--workdir=$folder/$set-published/seed_0" "$together" "$@"
    fi
    part "$set-seeds" "$set-seeds.cost" benchmarks/seeds.py "$config" \
        "--output=$folder/$set-seeds.cost" "$@"
done
exit $failed
