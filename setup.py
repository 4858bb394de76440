"""Package definition. Packages are listed by name, so that `tests` never ships to a worker."""

import os
import pathlib
import re

from setuptools import setup

# The folders as they are in the repository, installed below one name: a project that has a folder
# `jobs` of its own cannot shadow ours. `import imagecensus` is `jobs/api/__init__.py`.
PACKAGE_DIR = {
    "imagecensus": "jobs/api",
    "imagecensus.jobs": "jobs",
    "imagecensus.transforms": "transforms",
    "imagecensus.model_export": "model_export",
}
PACKAGES = [
    *PACKAGE_DIR,
    "imagecensus.jobs.classification",
    "imagecensus.jobs.command",
    "imagecensus.jobs.options",
    "imagecensus.jobs.results",
    "imagecensus.jobs.training_data",
    "imagecensus.transforms.archives",
    "imagecensus.transforms.dataset",
    "imagecensus.transforms.decoders",
    "imagecensus.transforms.engines",
    "imagecensus.transforms.inputs",
    "imagecensus.transforms.storage",
    "imagecensus.transforms.storage.web",
    "imagecensus.model_export.common",
    "imagecensus.model_export.foreign",
    "imagecensus.model_export.decoding",
    "imagecensus.model_export.decoding.readers",
    "imagecensus.model_export.training",
]

version = {}
with open("model_export/common/version.py", encoding="utf-8") as file:
    exec(file.read(), version)

EXTRAS = {
    # Training, export, and the `tensorflow` and `tfx-bsl` engines. A worker that classifies
    # with the `openvino` engine needs none of it.
    "tensorflow": [
        "tensorflow==2.21.*",
        "tf-keras==2.21.*",
        "tensorflow-hub==0.16.1",
        "setuptools<81",  # tensorflow-hub imports pkg_resources, which later ones lack
        "tfx-bsl==1.21.0",
        "tensorboard",
        "h5py",
    ],
    "report": ["scikit-learn", "matplotlib", "pandas"],
    "tfds": ["tensorflow-datasets"],
    "browse": ["starlette", "uvicorn"],
    # Image formats that Pillow does not read, or reads wrongly: HEIC, JPEG XL, camera raw,
    # scientific TIFF, DICOM, PDF; and Deflate64 in zips.
    "formats": ["pi-heif", "rawpy", "tifffile", "imagecodecs", "pydicom", "pypdfium2", "inflate64"],
    "quantize": ["nncf"],
    "delta": ["deltalake"],
    "huggingface": ["huggingface-hub"],
}
DEV = [
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "ruff",
    "mypy",
    "pandas-stubs",
    "types-protobuf",
    "types-psutil",
    "types-pyyaml",
    "types-tqdm",
    "polars",
    "psutil",
    "playwright",
    "httpx",  # starlette's test client
    "gcp-storage-emulator",
    "moto[server]",  # answers as S3 does
    "onnx",  # writes the models that tests read
    "kubernetes-validate",  # Kubernetes' own schemas
    "pyyaml",
    "packaging",
    "mkdocs-material",
    "mkdocstrings[python]",
    "build",
    "setuptools",
    "wheel",
    "pip",
]

README = (pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8")
URLS = {}
# CI builds what is published and knows where the repository is, so pages and images can be found
# from a package index.
if "GITHUB_REPOSITORY" in os.environ:
    host = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    repository = f"{host}/{os.environ['GITHUB_REPOSITORY']}"
    README = re.sub(r"\]\((?!https?:|#)", f"]({repository}/raw/main/", README)
    URLS = {
        "Source": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }

setup(
    name="imagecensus",
    version=version["__version__"],
    description="One label per image for archives of millions, in a table you can query.",
    long_description=README,
    long_description_content_type="text/markdown",
    author="imagecensus contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls=URLS,
    keywords="image-classification apache-beam parquet openvino tensorflow batch-inference",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    packages=PACKAGES,
    package_dir=PACKAGE_DIR,
    package_data={
        "imagecensus": ["py.typed"],
        "imagecensus.jobs.results": ["pages/*"],
        "imagecensus.model_export": ["*.txt"],
        "imagecensus.model_export.training": ["*.j2", "*.toml"],
    },
    install_requires=[
        "apache-beam[gcp]==2.77.0",
        "google-cloud-storage",
        "obstore",
        "urllib3",
        "numpy",
        "pillow",
        "cykooz-resizer",
        "pyarrow",
        "openvino",
        "duckdb",
        "jinja2",
        "tqdm",
        "humanize",
        "xxhash",
        "zstandard",  # Python has its own from 3.14 on
    ],
    extras_require={**EXTRAS, "all": sum(EXTRAS.values(), []), "dev": sum(EXTRAS.values(), DEV)},
    entry_points={"console_scripts": ["imagecensus = imagecensus.jobs.cli:command"]},
)
