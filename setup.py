"""Package definition. Packages are listed by name, so that `tests` never ships to a worker."""

from setuptools import setup

version = {}
with open("model_export/version.py", encoding="utf-8") as file:
    exec(file.read(), version)

EXTRAS = {
    # Training, export, and the `tensorflow` and `tfx-bsl` engines. A worker that classifies
    # with the `openvino` engine needs none of it.
    "tensorflow": [
        "tensorflow==2.21.*",
        "tf-keras==2.21.*",
        "tensorflow-hub==0.16.1",
        "setuptools<81",  # tensorflow-hub imports pkg_resources, which later ones lack
        "tfx-bsl==1.21.0; python_version >= '3.11'",  # on 3.10 its protobuf is too old for Beam's
        "tensorboard",
        "h5py",
    ],
    "report": ["scikit-learn", "matplotlib", "pandas"],
    "tfds": ["tensorflow-datasets"],
    "browse": ["starlette", "uvicorn"],
}
DEV = [
    "pytest",
    "pytest-timeout",
    "hypothesis",
    "ruff",
    "polars",
    "psutil",
    "playwright",
    "httpx",  # starlette's test client
    "gcp-storage-emulator",
    "kubernetes-validate",  # Kubernetes' own schemas
    "setuptools",
    "wheel",
    "pip",
]

setup(
    name="imagecensus",
    version=version["__version__"],
    description="One label per picture for archives of millions, in a table you can query.",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=["jobs", "transforms", "model_export"],
    package_data={"jobs": ["*.html", "*.j2"], "model_export": ["*.txt", "*.j2"]},
    install_requires=[
        "apache-beam[gcp]==2.77.0",
        "google-cloud-storage",
        "numpy",
        "pillow",
        "cykooz-resizer",
        "pyarrow",
        "openvino",
        "duckdb",
        "jinja2",
        "tqdm",
    ],
    extras_require={**EXTRAS, "all": sum(EXTRAS.values(), []), "dev": sum(EXTRAS.values(), DEV)},
    entry_points={"console_scripts": ["imagecensus = jobs.cli:command"]},
)
