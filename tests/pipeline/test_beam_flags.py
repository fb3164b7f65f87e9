from pipeline.beam_flags import list_names, open_parser, read_flags, write_flags


def test_every_flag_of_beam_that_takes_a_word_survives_as_a_key():
    parser = open_parser()
    for action in parser._actions:
        words = action.option_strings and action.nargs is None and action.type is None and not action.choices
        if words and action.dest != "runner":
            name = action.option_strings[-1][2:]
            word = '{"a": "b"}' if "json" in str(action.help).lower() else "word"
            assert name in list_names(parser)
            flags = [f"--{name}={word}"]
            assert options_from(read_flags(flags, "FnApiRunner")) == options_from_flags(flags), name


def options_from(keys):
    parser = open_parser()
    return options_from_flags([flag for key, value in keys.items() for flag in write_flags(key, value, parser)])


def options_from_flags(flags):
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(flags).get_all_options()
