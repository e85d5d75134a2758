"""Every option once, with its meaning and unit. The other files set only what differs.

Values here are EMKD's published hyper-parameters where all data sets share them.
"""

import ml_collections

from emkd_jax.errors import UserError


def base_config() -> ml_collections.ConfigDict:
    """The options all configs start from; `name` and `data.name` are still to be set."""
    config = ml_collections.ConfigDict()
    config.name = ''  # of the run; names the default workdir, runs/<name>
    config.seed = 0  # of everything random: weights, order, masks, dropout

    config.data = ml_collections.ConfigDict()
    config.data.name = ''  # toys, beauty, ml_1m, or of one's own log
    config.data.source = ''  # folder with the authors' data files; '' = prepared before or download
    config.data.stand_in = False  # where no real data is at hand, train on a made-up stand-in
    config.data.window_step = 1  # items between the starts of a long history's training windows

    config.model = ml_collections.ConfigDict()
    config.model.encoder = 'bert4rec'  # of every network; or sasrec, gru4rec, caser, hstu
    config.model.max_len = 20  # items a network sees, L
    config.model.hidden_dim = 256  # d
    config.model.num_blocks = 2  # blocks of an encoder, GRU layers; caser has none
    config.model.num_heads = 2  # attention heads of bert4rec, sasrec, hstu
    config.model.dropout = 0.3  # probability that an activation is dropped
    config.model.dtype = 'auto'  # of activations: float32, bfloat16 or auto (float32 on CPUs)

    config.ensemble = ml_collections.ConfigDict()
    config.ensemble.num_networks = 3  # N
    config.ensemble.shared_init = False  # start the encoders from the same weights

    config.objective = ml_collections.ConfigDict()
    config.objective.num_views = 8  # masked views of a sequence, M
    config.objective.mask_prob = 0.15  # probability that a real position is masked
    config.objective.temperature = 0.3  # of contrast and distillation, tau
    config.objective.kd_weight = 0.001  # of distillation, mu
    config.objective.contrast_weight = 0.01  # of ICL + CCL, lambda
    config.objective.icl_weight = 1.0  # share of ICL in the contrast
    config.objective.ccl_weight = 1.0  # share of CCL in the contrast
    config.objective.attribute_weight = 1.0  # of attribute prediction
    config.objective.self_contrast = 'zero'  # a sequence among its negatives: zero or excluded

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-3  # of Adam, constant

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 256  # sequences a step, over all devices
    config.train.num_epochs = 250
    config.train.num_steps = 0  # optimizer steps; 0 = num_epochs decides
    config.train.num_seeds = 1  # ensembles that train together, of the seeds from `seed` on
    config.train.max_together = 16  # at most so many at a time, for the memory
    config.train.steps_per_dispatch = 16  # steps sent to the devices at a time

    # Values to try, all together, as --config.sweep.dropout='(0.1,0.3)'; () = the option's own.
    config.sweep = ml_collections.ConfigDict()
    config.sweep.learning_rate = ()
    config.sweep.temperature = ()
    config.sweep.kd_weight = ()
    config.sweep.contrast_weight = ()
    config.sweep.dropout = ()

    config.distill = ml_collections.ConfigDict()
    config.distill.teacher = ''  # workdir of the ensemble that teaches this network; '' = none
    config.distill.temperature = 1.0  # of the teacher's softmax and the student's
    config.distill.weight = 1.0  # of the teacher's part of the loss, beside the labels'

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 0  # save after so many steps; 0 = not by steps
    config.checkpoint.every_minutes = 10.0  # save after so long; 0 = not by time

    config.eval = ml_collections.ConfigDict()
    config.eval.rule = 'window'  # items left out of the ranking: window, history or none
    config.eval.ks = (1, 5, 10, 20)  # cut-offs of HR, NDCG and MRR
    config.eval.first_epoch = 5  # validation starts after this epoch
    config.eval.every_epochs = 5  # and comes again after so many
    config.eval.batch_size = 256  # users ranked at a time, on each device

    config.recommend = ml_collections.ConfigDict()
    config.recommend.k = 10  # items for each user
    config.recommend.network = -1  # number of the network that recommends; -1 = the ensemble
    config.recommend.exclude_seen = True  # leave out what is in the user's history
    config.recommend.exclude = ''  # file of item ids, one a line, that are never recommended
    config.recommend.only = ''  # file of item ids, one a line: nothing else is recommended
    config.recommend.titles = False  # show items' titles, where the data has some

    config.export = ml_collections.ConfigDict()
    config.export.weights = 'safetensors'  # also by name: safetensors, npz, pth; '' = not
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """What the variants of all data sets share: '', `released` and `quick`."""
    if variant == 'released':  # every quirk of the released code
        config.model.dtype = 'float32'
        config.ensemble.shared_init = True
        config.eval.first_epoch = 102
        config.eval.every_epochs = 1
    elif variant == 'quick':  # a small model, for a machine without an accelerator
        config.data.stand_in = True
        config.data.window_step = max(20, 4 * config.data.window_step)
        config.model.hidden_dim = 64
        config.model.num_blocks = 1
        config.model.dropout = 0.1
        config.ensemble.num_networks = 2
        config.objective.num_views = 1
        config.objective.mask_prob = 0.3
        config.optimizer.learning_rate = 0.01
        config.train.batch_size = 128
        config.train.num_epochs = 7
        config.eval.first_epoch = 1
        config.eval.every_epochs = 1
    elif variant:
        raise UserError(
            f"configs/{config.data.name}.py has no variant '{variant}'; use :released, :quick or "
            'none.'
        )
    config.name = f'{config.data.name}_{variant}' if variant else config.data.name
    return config
