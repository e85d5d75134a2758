"""Recommends from an exported folder; needs jax and flatbuffers: use_export.py FOLDER ITEM ..."""

import json
import pathlib
import sys

import jax
import numpy as np

folder, history = pathlib.Path(sys.argv[1]), sys.argv[2:]
items = json.loads((folder / 'items.json').read_text())['items']
slots = json.loads((folder / 'card.json').read_text())['slots']
model = jax.export.deserialize(bytearray((folder / 'model.stablehlo').read_bytes()))
numbers = {str(item): number for number, item in enumerate(items, 1)}
seen = [numbers[item] for item in history if item in numbers]
window = ([0] * slots + seen)[len(seen) :]  # the last `slots` of them, padded on the left with 0
scores = np.array(model.call(np.array([window], np.int32)))[0]
scores[np.array(seen, int) - 1] = -np.inf
for place in np.argsort(-scores)[:10]:
    print(items[place], scores[place])
