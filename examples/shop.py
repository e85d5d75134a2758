"""Writes the files of a made-up shop, events.csv and items.csv, to a folder.

    python examples/shop.py FOLDER

Every call writes the same events. Customers have two hobbies, and mostly buy next what follows
their last purchase. No data of real people is used.
"""

import csv
import datetime
import pathlib
import sys

import numpy as np

CUSTOMERS = 1000
HOBBIES = {
    'coffee': (
        'Hand grinder',
        'Pour-over dripper',
        'Paper filters',
        'Gooseneck kettle',
        'Pocket scale',
        'Ethiopian beans',
        'Colombian beans',
        'Milk frother',
        'Descaler',
        'Travel mug',
    ),
    'garden': (
        'Trowel',
        'Seed trays',
        'Tomato seeds',
        'Basil seeds',
        'Compost',
        'Watering can',
        'Plant labels',
        'Slug traps',
        'Tomato feed',
        'Garden twine',
    ),
    'cycling': (
        'Helmet',
        'Front light',
        'Rear light',
        'Bell',
        'Floor pump',
        'Inner tube',
        'Tyre levers',
        'Puncture kit',
        'Chain oil',
        'Chain cleaner',
    ),
    'baking': (
        'Rye flour',
        'Sourdough starter',
        'Dough scraper',
        'Proofing basket',
        'Linen couche',
        'Dutch oven',
        'Bread knife',
        'Scoring blade',
        'Oven gloves',
        'Bread bin',
    ),
    'painting': (
        'Watercolour set',
        'Round brushes',
        'Paper block',
        'Masking tape',
        'Palette',
        'Table easel',
        'Sketchbook',
        'Soft pencils',
        'Kneaded eraser',
        'Fixative',
    ),
    'camping': (
        'Sleeping mat',
        'Tent pegs',
        'Head torch',
        'Camp stove',
        'Gas canister',
        'Mess tin',
        'Water filter',
        'Dry bag',
        'Guy rope',
        'First-aid kit',
    ),
}


def main(folder: pathlib.Path) -> None:
    """Writes both files to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = {
        f'{hobby[:3].upper()}-{number:02}': (title, hobby)
        for hobby, things in HOBBIES.items()
        for number, title in enumerate(things, 1)
    }
    with (folder / 'items.csv').open('w', newline='', encoding='utf-8') as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(['item', 'title', 'category'])
        table.writerows([item, *described] for item, described in titles.items())
    random = np.random.default_rng(1)
    events = [event for customer in range(CUSTOMERS) for event in purchases(customer, random)]
    with (folder / 'events.csv').open('w', newline='', encoding='utf-8') as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(['customer', 'item', 'date'])
        table.writerows(sorted(events, key=lambda event: event[2]))


def purchases(customer: int, random: np.random.Generator) -> list[tuple[str, str, str]]:
    """The purchases of one customer: (customer, item, date)."""
    hobbies = random.choice(len(HOBBIES), 2, replace=False)
    place = random.integers(0, 4, 2)
    day = datetime.date(2025, 1, 1) + datetime.timedelta(int(random.integers(300)))
    bought = []
    for _ in range(random.integers(6, 14)):
        hobby = int(random.random() < 0.3)
        name = list(HOBBIES)[hobbies[hobby]]
        bought.append((f'customer-{customer:04}', f'{name[:3].upper()}-{place[hobby] + 1:02}', day))
        place[hobby] = (place[hobby] + random.choice([1, 2, 5], p=[0.7, 0.2, 0.1])) % 10
        day += datetime.timedelta(int(random.integers(1, 20)))
    return [(who, what, when.isoformat()) for who, what, when in bought]


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
