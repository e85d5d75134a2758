def BERTModel(args):  # noqa: N802
    return args
