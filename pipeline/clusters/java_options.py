"""The options that only Beam's Java runners for Flink and Spark know, which Beam's parser in Python would refuse."""

from __future__ import annotations

import argparse

# Of FlinkPipelineOptions, SparkPipelineOptions and PortablePipelineOptions of Beam 2.70 in Java,
# without those that Python has and those of streaming jobs.
JAVA_OPTIONS: dict[str, dict[str, object]] = {
    **dict.fromkeys(("execution_mode_for_batch", "flink_conf_dir", "storage_level", "checkpoint_dir"), {}),
    **dict.fromkeys(("max_bundle_size", "max_bundle_time_mills", "job_check_interval_in_secs"), {"type": int}),
    **dict.fromkeys(("file_input_split_max_size_mb", "bundle_size", "environment_expiration_millis"), {"type": int}),
    **dict.fromkeys(("number_of_execution_retries", "execution_retry_delay"), {"type": int}),
    **dict.fromkeys(("object_reuse", "disable_metrics", "faster_copy", "cache_disabled"), {"action": "store_true"}),
    **dict.fromkeys(("re_iterable_group_by_key_result", "load_balance_bundles"), {"action": "store_true"}),
    **dict.fromkeys(("use_data_stream_for_batch", "force_slot_sharing_group"), {"action": "store_true"}),
}


def add_java_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser of Beam's options, without defaults."""
    for name, settings in JAVA_OPTIONS.items():
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, **settings)  # type: ignore[arg-type]
