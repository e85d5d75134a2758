"""Mutated configurations end in success or in one clear sentence."""

import json
import random
import re
import subprocess
import sys

import pytest

from configs import quickstart
from tests.support import soak
from tests.support.launches import ROOT

pytestmark = pytest.mark.soak

ODD_BYTES = [b'\xff', b'\x00', b'\xff\xff\xff\x7f', b'\x80', b'(', b'}', b']', b'\x8a\x08']
ODD_VALUES = [
    b'-1',
    b'0',
    b'1',
    b'31',
    b'2147483648',
    b'9223372036854775808',
    b'1e999',
    b'1.5',
    b'NaN',
    b'null',
    b'true',
    b'"x"',
    b'[]',
    b'{}',
    b'[[1]]',
    b'"',
    b'[' * 50,
    b'9' * 5000,
]


def mutated(content, chance):
    """The bytes with one to four changes."""
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(content) + 1) for _ in range(2))
        b = min(b, a + chance.choice([1, 8, 64, 10**9]))
        part = content[a:b]
        match chance.randrange(7):
            case 0:
                content = content[:a]
            case 1:
                content = content[:a] + content[b:]
            case 2:
                content = content[:b] + part + content[b:]
            case 3:
                content = content[:a] + chance.choice(ODD_BYTES) + content[a:]
            case 4:
                content = content[:a] + chance.choice(ODD_VALUES) + content[b:]
            case 5:
                content = content[:a] + part[::-1] + content[b:]
            case 6 if content:
                at = chance.randrange(len(content))
                bits = content[at] ^ 1 << chance.randrange(8)
                content = content[:at] + bytes([bits]) + content[at + 1 :]
    return content


def check_sentence(message):
    """One sentence, of a length that one reads."""
    assert message.isprintable(), message
    assert message.endswith('.'), message
    assert len(message) < 500, message


# Runs launch.py once for every line of arguments, each time in a fork of a process that has
# imported everything, up to where training would begin; and says what became of it.
SERVER = """
import contextlib, io, json, os, sys, traceback, warnings
sys.path.insert(0, '')
warnings.simplefilter('ignore')
from emkd_jax.cli import main as cli
from emkd_jax.runs import loop
from emkd_jax.runs.experiment import make_experiment
from emkd_jax.serving import after_training

def begin(config, data, workdir, signals):
    experiment = make_experiment(config)
    experiment.state_shapes()
    experiment.rows

loop.train = begin
after_training.show = lambda run: None
for line in sys.stdin:
    read, write = os.pipe()
    if os.fork() == 0:
        sys.argv = ['launch.py', *json.loads(line)]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                code = cli.main()
            except SystemExit as end:
                code = end.code
            except BaseException:
                code = 'crash'
                traceback.print_exc()
        os.write(write, json.dumps([code, said.getvalue()[-3000:]]).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        print(answer.read(), flush=True)
    os.wait()
"""


@pytest.fixture(scope='module')
def launched():
    """Exit code and what was printed, for arguments of launch.py."""
    server = subprocess.Popen(
        [sys.executable, '-c', SERVER],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def ask(arguments):
        server.stdin.write(json.dumps(arguments) + '\n')
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer.strip(), arguments
        return json.loads(answer)

    yield ask
    server.communicate()


VALUES = {  # by the type of the option, and for any
    int: ['0', '1', '2', '3', '7', '-1', '50', '99999999999999999999', '1.5'],
    float: ['0', '1', '0.5', '1e-9', '1e9', '-0.5', 'nan', 'inf', '-inf'],
    bool: ['True', 'False', '0', '1', 'maybe'],
    str: ['', ' ', 'x', 'auto', 'float32', 'bfloat16', 'toys', 'history', 'zero', '../x', '-1'],
    tuple: ['(1,5)', '(10,)', '()', '[10]', '10,20', '(-1,10)', 'x', '(1.5,10)'],
    None: ['None', '{}', '☃', 'a' * 300, "'", '$(x)', '1;2', '(1,', '=', '0x10'],
}


def mutated_options(chance):
    """A configuration of ours with one to three options set to anything."""
    options = dict(flat(quickstart.get_config()))
    arguments = ['--config=configs/quickstart.py']
    if chance.random() < 0.05:
        arguments[0] += chance.choice([':', ':x'])
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(sorted(options))
        kind = type(options[name]) if chance.random() < 0.9 else None
        if chance.random() < 0.1:
            name = ''.join(filter(str.isprintable, mutated(name.encode(), chance).decode('latin1')))
        arguments.append(f'--config.{name}={chance.choice(VALUES[kind])}')
    return arguments


def mutated_file(chance, path):
    """A configuration file in which someone slipped."""
    text = (ROOT / 'configs' / 'quickstart.py').read_text()
    begin = text.index('config = ')
    if chance.random() < 0.7:
        value = chance.choice(list(re.finditer(r"(?<= = )[\d.]+|True|'\w*'", text[begin:])))
        new = chance.choice(VALUES[chance.choice([int, float, bool])])
        path.write_text(text[: begin + value.start()] + new + text[begin + value.end() :])
    else:
        path.write_bytes(text[:begin].encode() + mutated(text[begin:].encode(), chance))
    return [f'--config={path}']


def flat(config, prefix=''):
    """All options and their values."""
    for name, value in config.items():
        if hasattr(value, 'items'):
            yield from flat(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def test_mutated_configurations(launched, tmp_path):
    chance = random.Random(3)
    number, ended = soak.short_or_long(100, 500), {0: 0, 2: 0}
    for i in range(number):
        arguments = (
            mutated_options(chance) if i % 3 else mutated_file(chance, tmp_path / f'c{i}.py')
        )
        code, printed = launched(arguments)
        code = code or 0
        assert code in ended, (arguments, code, printed)
        ended[code] += 1
        if code:
            check_sentence(printed.strip().splitlines()[-1])
    assert min(ended.values()) > number / 10
    soak.record(
        'mutated configurations',
        number=number,
        accepted=ended[0],
        refused_in_a_sentence=ended[2],
        crashes=0,
    )


def test_options_may_stand_before_their_file(launched):
    file, option = '--config=configs/quickstart.py', '--config.train.batch_size=3'
    refused = launched([file, option.replace('=3', '=0')])
    assert refused[0] == 2
    assert launched([option.replace('=3', '=0'), file]) == refused
    assert not launched([option, file])[0]


def test_what_is_quoted_from_a_file_is_printable(launched, tmp_path):
    (tmp_path / 'log').write_bytes(b'\x00\x1b[31m\xff\r' * 9)
    code, printed = launched(
        ['--config=configs/custom.py', f'--config.data.source={tmp_path / "log"}']
    )
    assert code == 2
    check_sentence(printed.removesuffix('\n'))
