"""Recommends from an exported folder, with jax and flatbuffers: use_export.py FOLDER ITEM ..."""

import json
import pathlib
import sys

import jax
import numpy as np

folder, history = pathlib.Path(sys.argv[1]), sys.argv[2:]
items = json.loads((folder / 'items.json').read_text())['items']
slots = json.loads((folder / 'card.json').read_text())['slots']
model = jax.export.deserialize(bytearray((folder / 'model.stablehlo').read_bytes()))
number = {str(item): n for n, item in enumerate(items, 1)}
seen = [number[item] for item in history if item in number]
row = np.array([[0] * (slots - len(seen)) + seen[-slots:]], np.int32)
scores = np.array(model.call(row))[0]
scores[np.array(seen, int) - 1] = -np.inf
for n in np.argsort(-scores)[:10]:
    print(items[n], scores[n])
