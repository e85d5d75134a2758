"""What a data set knows of itself."""

import numpy as np

from emkd_jax.data.dataset import Dataset, Holdout, Ragged, Split


def test_the_fingerprint_tells_contents_apart():
    def make(**changes):
        return Dataset(
            **{
                'name': 'x',
                'histories': Ragged.from_rows([[1, 2], [2]]),
                'item_attributes': np.array([[0], [1], [-1]], np.int32),
                'num_items': 2,
                'num_attributes': 1,
                'user_ids': np.array([5, 6]),
                'item_ids': np.array(['a', 'b']),
            }
            | changes
        )

    # Runs compare it with the one that they started from: no version of the code may change it.
    assert make().fingerprint == (
        'e4a87a3859635c01b498a0c0b4526c3d695ef64fe6c88ed18cc540771d213328'
    )
    rows, one = Ragged.from_rows([[1, 2], [2]]), np.zeros(1, np.int64)
    none = Holdout(Ragged.from_rows([[1]]), np.ones(1, np.int32), one + 1)
    others = (
        make(histories=Ragged.from_rows([[1], [2, 2]])),
        make(histories=Ragged.from_rows([[1, 2], [1]])),
        make(item_attributes=np.array([[0], [-1], [1]], np.int32)),
        make(user_ids=np.array([6, 5])),
        make(item_ids=np.array(['b', 'a'])),
        *(
            make(split=Split(train, held_out, held_out))
            for train, held_out in (
                (rows, none),
                (rows.take(np.arange(2), 1), none),
                (rows, none._replace(users=one)),
            )
        ),
    )
    assert len({make().fingerprint, *(other.fingerprint for other in others)}) == 9
