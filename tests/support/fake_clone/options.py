"""The arguments the driver sets, after its own command line was parsed."""

import argparse

from templates import set_template

parser = argparse.ArgumentParser()
parser.add_argument('--template')
parser.add_argument('--dataset_code')
parser.add_argument('--device')
parser.add_argument('--device_idx', default='0')
args = parser.parse_args()
set_template(args)
for _name in (
    'bert_max_len',
    'bert_hidden_units',
    'bert_num_blocks',
    'bert_num_heads',
    'bert_dropout',
    'bert_mask_prob',
    'N',
    'num_positive',
    'tau',
    'mu',
    'lambda_',
    'lr',
    'train_batch_size',
    'slide_window_step',
):
    setattr(args, _name, None)
