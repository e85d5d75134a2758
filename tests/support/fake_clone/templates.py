"""The template, which the driver asks for by name."""


def set_template(args):
    args.template_was_set = args.template
