"""What a training ends with: whether it beats the baselines, and recommendations for one user."""

from typing import Any

import jax

from emkd_jax.cli.console import print_table, say
from emkd_jax.errors import this_program
from emkd_jax.runs.trained import TrainedRun
from emkd_jax.serving.model import Model

_SHOWN, _HISTORY = 10, 3  # items that are recommended, and items of the history
_WIDTH = 48  # characters of a title


def show(run: TrainedRun) -> None:
    """Prints the gain over the baselines, items for the first tested user, and what to do next.

    Args:
      run: a finished run, or several that trained together, for which nothing is shown.
    """
    if jax.process_count() > 1 or 'floors' not in run.results or 'tried' in run.results:
        return
    say(f'\n{gain_in_words(run.results)}')
    model = Model.from_run(run)
    user = run.experiment.split.test.users[0]
    history = model.dataset.histories[user].tolist()
    titles = dict(enumerate(model.titles.tolist(), 1))

    def named(item: int) -> str:
        return str(titles.get(item, model.item_ids[item - 1]))[:_WIDTH]

    recent = ', '.join(named(item) for item in history[-_HISTORY:])
    table = model.recommend(users=[model.user_ids[user]], k=_SHOWN)
    numbers = {item: number for number, item in enumerate(model.item_ids.tolist(), 1)}
    columns = ['', 'item', 'title'] if titles else ['', 'item']
    rows = [
        [str(rank), str(item), named(numbers[item])][: len(columns)]
        for rank, item in zip(table['rank'], table['item'], strict=True)
    ]
    say(f'\nUser {model.user_ids[user]} came last to: {recent}.')
    print_table(f'Recommended to user {model.user_ids[user]}', columns, rows, len(columns))
    program = this_program()
    say(
        f'\nFor all users:  {program} recommend --workdir={run.folder} --output=answers.csv\n'
        f'In the browser: {program} serve --workdir={run.folder}\n'
        f"In Python:      emkd_jax.load('{run.folder}').recommend(users=[...])"
    )


def gain_in_words(results: dict[str, Any]) -> str:
    """Says which baselines the run beats in NDCG@10 under its rule, and by how much."""
    rule = results['config']['eval']['rule']
    value = results['test'][rule]['NDCG@10']
    floors = {name: floor[rule]['NDCG@10'] for name, floor in results['floors'].items()}
    best = max(floors, key=lambda name: floors[name])
    beaten = [name for name, floor in floors.items() if value > floor]
    name = 'The ensemble and the counts' if 'counts' in results else 'The ensemble'
    if not beaten:
        return (
            f'{name} beat none of the baselines in NDCG@10 ({value:.4f}); the best one, {best}, '
            f'has {floors[best]:.4f}.'
        )
    which = 'all baselines' if len(beaten) == len(floors) else f'only {" and ".join(beaten)}'
    compared = f'{value:.4f} against {floors[best]:.4f} of {best}, the best baseline'
    change = value / floors[best] - 1 if floors[best] else 0.0
    return f'{name} beat {which} in NDCG@10: {compared} ({change:+.0%}).'
