"""`--mode=distill`: networks that a trained ensemble teaches.

One of them costs 1/N to serve; several are an ensemble again.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from emkd_jax.cli.console import print_table, say
from emkd_jax.config.stored import differences, to_json
from emkd_jax.errors import UserError, this_program
from emkd_jax.runs.loop import train
from emkd_jax.runs.results import write_results
from emkd_jax.runs.signals import StopSignals
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.runs.workdir import read_config

_VALIDATION = {'eval.first_epoch', 'eval.every_epochs', 'train.patience'}


def distill(
    teacher: TrainedRun,
    config: ml_collections.ConfigDict | None = None,
    output: str = '',
    signals: StopSignals | None = None,
) -> TrainedRun:
    """Trains students of a finished ensemble, and compares the two.

    The students are an ordinary run with `distill.teacher` set, so every mode takes their folder
    as `--workdir`.

    Args:
      teacher: the trained ensemble.
      config: the options of the students, which may have another size or encoder; None: those of
        the teacher. There are `distill.num_networks` students, with the dropout `distill.dropout`.
      output: the folder of the students; '' for `student` in the teacher's workdir.
      signals: may stop the training.

    Returns:
      The run of the students. Their folder has `distillation.json` with what `compare` returns.

    Raises:
      UserError: the teacher has not finished, or the students would have other data or an option
        that has no meaning for them.
    """
    if not teacher.results:
        raise UserError(
            f'{teacher.folder} holds no finished run; train the teacher with --mode=train.'
        )
    options = (config or teacher.config).copy_and_resolve_references()
    changed = differences(read_config(teacher.folder), to_json(options))
    names = {change.partition(':')[0] for change in changed}
    _check(options, changed, names)
    if not names & _VALIDATION:
        _validate_often(options)
    options.unlock()
    options.model.dropout = options.distill.dropout
    options.ensemble.num_networks = options.distill.num_networks
    options.distill.teacher = teacher.workdir
    if options.ensemble.members.count(',') + 1 != options.distill.num_networks:
        options.ensemble.members = ''
    folder = output or str(teacher.folder / 'student')
    student = train(options, teacher.dataset, folder, signals)
    rule = options.eval.rule
    found = compare(teacher.results, student.results, rule)
    write_results(student.folder, found, 'distillation.json')
    columns = list(found['test']['teacher'])
    print_table(
        f"Test, rule '{rule}'",
        ['', *columns],
        [[name, *(f'{row[c]:.4f}' for c in columns)] for name, row in found['test'].items()],
    )
    for metric in ('HR@10', 'NDCG@10'):
        say(in_words(metric, found['test'], found['kept'][metric]))
    say(f'Serve it with: {this_program()} serve --workdir={student.folder}')
    return student


def _validate_often(options: ml_collections.ConfigDict) -> None:
    """Sets when students are validated: they are best earlier than their teacher was."""
    every = max(1, options.train.num_epochs // 16)
    options.eval.first_epoch = options.eval.every_epochs = every
    options.train.patience = 4 * every
    after = 'every epoch' if every == 1 else f'every {every} epochs'
    say(
        f'Students are validated after {after}, and their training stops {4 * every} epochs after '
        'the best validation, unless eval.every_epochs, eval.first_epoch or train.patience say '
        'otherwise.'
    )


def _check(options: ml_collections.ConfigDict, changed: list[str], names: set[str]) -> None:
    """Refuses options of students that would change nothing, or their teacher's data."""
    if of_data := [change for change in changed if change.startswith('data.')]:
        raise UserError(
            f'A student learns from the data of its teacher, and {"; ".join(of_data)} would change '
            'it; leave it out.'
        )
    if 'model.dropout' in names:
        raise UserError(
            'The dropout of a student is not model.dropout, which is that of its teacher; set '
            f'--config.distill.dropout={options.model.dropout} instead.'
        )
    members, students = options.ensemble.members, options.distill.num_networks
    if 'ensemble.num_networks' in names and not members:
        raise UserError(
            'The number of students is not ensemble.num_networks, which is that of their teacher; '
            f'set --config.distill.num_networks={options.ensemble.num_networks} instead.'
        )
    if 'ensemble.members' in names and members and members.count(',') + 1 != students:
        raise UserError(
            f'ensemble.members={members} names other than {students} students; set '
            f'--config.distill.num_networks={members.count(",") + 1} as well.'
        )


def compare(teacher: dict[str, Any], student: dict[str, Any], rule: str) -> dict[str, Any]:
    """Teacher, its networks and students side by side, from their results.

    Transition counts are left out of all of them, since only networks are taught.

    Returns:
      'test' of the teacher, of its networks alone (their mean) and of the student, and 'kept': the
      student's share of the gain from one network to the ensemble (None where there is no gain).
      In place of 'student', 'test' of several has 'students', the ensemble that they are, and 'one
      of the students' (their mean).
    """
    of_student, of_teacher = (
        results.get('without_counts', results['test'])[rule] for results in (student, teacher)
    )
    ensemble = {name: value for name, value in of_teacher.items() if name in of_student}

    def one_of(results):
        return {
            name: float(np.mean([metrics[rule][name] for metrics in results['networks']]))
            for name in ensemble
        }

    network = one_of(teacher)
    gains = {name: ensemble[name] - network[name] for name in ensemble}
    test = {'teacher': ensemble, 'one of its networks': network}
    if len(student['networks']) > 1:
        test |= {'students': of_student, 'one of the students': one_of(student)}
    else:
        test['student'] = of_student
    return {
        'test': test,
        'kept': {
            name: (of_student[name] - network[name]) / gain if gain > 0 else None
            for name, gain in gains.items()
        },
    }


def in_words(metric: str, test: Mapping[str, Mapping[str, float]], kept: float | None) -> str:
    """Says how far the student is from its teacher and from one of the teacher's networks.

    Args:
      metric: such as 'NDCG@10'.
      test: as `compare` returns it.
      kept: the share of the gain that is kept.
    """
    who = 'students' if 'students' in test else 'student'
    value = test[who][metric]
    differences = [value - test[name][metric] for name in ('one of its networks', 'teacher')]
    if kept is None:
        share = 'the ensemble is no better than its networks'
    elif kept < 0:
        share = 'nothing of the gain of the ensemble is kept'
    elif kept > 1:
        share = 'all of the gain of the ensemble is kept, and more'
    else:
        share = f'{kept:.0%} of the gain of the ensemble is kept'
    return (
        f'{metric} of the {who}: {differences[0]:+.4f} to one of the networks, '
        f'{differences[1]:+.4f} to the ensemble; {share}.'
    )
