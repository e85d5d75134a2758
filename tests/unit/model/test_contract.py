"""An encoder of a user's own is tried before it is used; a broken one trains without errors."""

import pytest

from emkd_jax.errors import UserError
from emkd_jax.model.encoders import ENCODERS
from emkd_jax.model.encoders.contract import check_contract
from tests.support import broken_encoders, small


def make(name):
    return small.ensemble(
        model__encoder=name, ensemble__num_networks=1, objective__task='auto'
    ).network.encoder


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('SeesOtherSegments', 'of a segment must not depend on the other segments of its row'),
        ('SeesLaterItems', 'of a slot must not depend on later slots'),
        ('PacksButSeesLaterItems', 'of a slot must not depend on later slots'),
        ('SeesOtherRows', 'of a row must not depend on the other rows'),
        ('CountsPadding', 'with `last_only` and without the padding before the row'),
        ('TakesTheFirstSlot', 'with `last_only` and without the padding before the row'),
        ('HasNoStateWithoutItems', 'must be finite, also in a row that has only padding'),
        ('IsTooWide', r'have the shape \(3, 6, 32\) where .* is \(3, 6, 16\)'),
        ('Raises', r'fails on rows of 6 items: TypeError: .* \(broken_encoders\.py, line \d+\)\.$'),
        ('RaisesInTraining', r'Error: .* \(broken_encoders\.py, line \d+\)\.$'),
        ('DefinesNothing', r'NotImplementedError: DefinesNothing does not define `blocks`\.$'),
    ],
)
def test_the_rule_that_it_breaks_is_named(name, message):
    with pytest.raises(UserError, match=f'^The encoder .*{name} .*{message}'):
        make(f'{broken_encoders.__name__}:{name}')


def test_a_file_that_python_cannot_read_is_named(tmp_path, monkeypatch):
    (tmp_path / 'unreadable_encoder.py').write_text('\ndef blocks(:\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r'SyntaxError: .*\(unreadable_encoder\.py, line 2\)\.$'):
        make('unreadable_encoder:Encoder')


@pytest.mark.parametrize('name', ENCODERS)
def test_the_encoders_of_the_package_keep_the_rules(name):
    check_contract(make(name), name)
