"""The options that only Beam's Java runners for Flink and Spark know, which Beam's own parser would refuse."""

from __future__ import annotations

import argparse

# Of FlinkPipelineOptions, SparkPipelineOptions, SparkCommonPipelineOptions, PortablePipelineOptions and
# FileStagingOptions of Beam 2.70, without what Beam's Python options have and without those of streaming jobs.
WORDS = (
    *("execution_mode_for_batch", "flink_conf_dir", "state_backend", "state_backend_storage_path"),
    *("spark_master", "storage_level", "checkpoint_dir"),
)
NUMBERS = (
    *("number_of_execution_retries", "execution_retry_delay", "max_bundle_size", "max_bundle_time_mills"),
    *("job_check_interval_in_secs", "file_input_split_max_size_mb", "latency_tracking_interval"),
    *("bundle_size", "environment_expiration_millis"),
)
SWITCHES = (
    *("object_reuse", "operator_chaining", "disable_metrics", "re_iterable_group_by_key_result", "faster_copy"),
    *("use_data_stream_for_batch", "attached_mode", "force_slot_sharing_group", "cache_disabled"),
    *("enable_spark_metric_sinks", "prefer_group_by_key_to_handle_huge_values", "load_balance_bundles"),
)
LISTS = ("files_to_stage",)


def add_java_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser of Beam's options, except those that it has."""
    kinds = {**dict.fromkeys(NUMBERS, {"type": int}), **dict.fromkeys(SWITCHES, {"action": "store_true"})}
    kinds.update(dict.fromkeys(LISTS, {"action": "append"}))
    for name in (*WORDS, *NUMBERS, *SWITCHES, *LISTS):
        if f"--{name}" not in parser._option_string_actions:
            parser.add_argument(f"--{name}", **kinds.get(name, {}))  # type: ignore[arg-type]
