"""The deployment files say what they should, to those who read them."""

from __future__ import annotations

import json
import re

import build_steps
import fetch_engines
import kubernetes_validate
import pytest
import yaml

from imagecensus.model_export.common.errors import UserError

DEPLOY = fetch_engines.ROOT / "docs" / "deploy"


def manifests() -> list[dict]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]


def validate(manifest: dict) -> None:
    """By the schemas of Kubernetes' own API; strict: a field it does not know is an error."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_manifests_are_what_kubernetes_takes():
    kinds = {manifest["kind"] for manifest in manifests()}
    assert kinds == {"ConfigMap", "Service", "Deployment", "ServiceAccount", "Job"}
    for manifest in manifests():
        validate(manifest)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(replica=2),
        lambda spec: spec.update(replicas="two"),
        lambda spec: spec["template"]["spec"]["containers"][0].pop("name"),
        lambda spec: spec.pop("selector"),
    ],
)
def test_the_schema_finds_slips(spoil):
    manifest = next(m for m in manifests() if m["metadata"]["name"] == "flink-taskmanager")
    spoil(manifest["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


def test_manifests_fit_together():
    found = {(m["kind"], m["metadata"]["name"]): m for m in manifests()}
    configs = {name for kind, name in found if kind == "ConfigMap"}
    labels = []
    for (kind, _), manifest in found.items():
        versions = {"Deployment": "apps/v1", "Job": "batch/v1"}
        assert manifest["apiVersion"] == versions.get(kind, "v1")
        if kind != "Deployment":
            continue
        spec = manifest["spec"]
        assert spec["replicas"] >= 1
        pod = spec["template"]
        assert spec["selector"]["matchLabels"] == pod["metadata"]["labels"]
        labels.append(pod["metadata"]["labels"])
        volumes = {v["name"]: v["configMap"]["name"] for v in pod["spec"]["volumes"]}
        assert set(volumes.values()) <= configs
        for container in pod["spec"]["containers"]:
            assert {"name", "image", "resources"} <= set(container)
            assert all(m["name"] in volumes for m in container.get("volumeMounts", ()))
            assert "memory" in container["resources"]["limits"]
    service = found["Service", "flink-jobmanager"]["spec"]
    assert any(service["selector"].items() <= label.items() for label in labels)


def test_each_task_manager_has_a_worker_pool():
    manager = next(m for m in manifests() if m["metadata"]["name"] == "flink-taskmanager")
    containers = {c["name"]: c for c in manager["spec"]["template"]["spec"]["containers"]}
    pool = containers["worker-pool"]
    assert "apache_beam.runners.worker.worker_pool_main" in pool["command"]
    port = int(pool["args"][0].split("=")[1])
    assert pool["ports"] == [{"containerPort": port}]
    assert f"--environment_config=localhost:{port}" in (
        DEPLOY / "kubernetes" / "flink.yaml"
    ).read_text().replace("# ", "")
    assert containers["taskmanager"]["image"].split(":")[1].startswith(fetch_engines.FLINK_MINOR)


def test_the_job_runs_the_command_of_the_page_against_that_cluster():
    from imagecensus.jobs.classification.beam_flags import validate_beam
    from imagecensus.jobs.options.classify import ClassifyOptions

    found = {(m["kind"], m["metadata"]["name"]): m for m in manifests()}
    pod = found["Job", "imagecensus-classify"]["spec"]["template"]["spec"]
    workers = found["Deployment", "flink-taskmanager"]["spec"]["template"]["spec"]
    for spec in (pod, workers):
        assert ("ServiceAccount", spec["serviceAccountName"]) in found
    [container] = pod["containers"]
    command, *arguments = container["args"]
    assert command == "classify"
    options = ClassifyOptions.parse(arguments, "")
    validate_beam(options.beam_args, options.runner)
    flags = dict(argument.removeprefix("--").split("=") for argument in options.beam_args)
    host, _, port = flags["flink_master"].partition(":")
    ports = {port["name"]: port["port"] for port in found["Service", host]["spec"]["ports"]}
    assert int(port) == ports["rest"]
    assert flags["flink_version"] == fetch_engines.FLINK_MINOR
    slots = found["Deployment", "flink-taskmanager"]["spec"]["replicas"]
    assert int(flags["parallelism"]) == slots
    launcher = (DEPLOY / "kubernetes" / "Dockerfile.launcher").read_text()
    folder, _, jar = flags["flink_job_server_jar"].rpartition("/")
    assert f"COPY --from=job-server /job-server {folder}" in launcher
    assert f" {jar} " in launcher


# Of this machine, of several machines, or repeated.
NOT_IN_TEMPLATES = {
    "weights", "trust_model", "shard", "relocate", "no_report", "dry_run", "calibrate_on_archive",
    "runner", "exclude", "include", "detach", "cancel", "list_on_workers", "table",
}  # fmt: skip


def test_the_flex_template_asks_for_what_classify_takes():
    """Each parameter is an option of classify, and what classify must have must be given."""
    from imagecensus.jobs.command.options import declared
    from imagecensus.jobs.flex_template import classify_arguments
    from imagecensus.jobs.options.classify import ClassifyOptions

    spec = json.loads((DEPLOY / "dataflow" / "flex_template.json").read_text())
    assert spec["sdkInfo"]["language"] == "PYTHON"
    parameters = {p["name"]: p for p in spec["metadata"]["parameters"]}
    offered = {field.name for field in declared(ClassifyOptions)}
    assert offered - set(parameters) == NOT_IN_TEMPLATES, (
        "a template can be given what classify can"
    )
    examples = {"inputs": "gs://b/in,gs://b/list.csv", "model": "gs://b/m", "output": "gs://b/out"}
    examples |= {"model_digest": "ab12", "accept_truncated": "0.98", "max_failure_rate": "0.1"}
    examples |= {"engine": "openvino", "precision": "f32", "compression": "snappy"}
    examples |= {"pages": "all", "verify": "all", "uri_column": "path", "image_column": "image"}
    examples |= {"max_bytes": "2G", "decode_memory": "512M", "zip_encoding": "cp866"}
    for name, parameter in parameters.items():
        assert {"label", "helpText", "regexes", "isOptional"} <= set(parameter)
        example = examples.setdefault(name, "3" if "[0-9]" in parameter["regexes"][0] else "true")
        assert re.fullmatch(parameter["regexes"][0], example)
    needed = {name for name, parameter in parameters.items() if not parameter["isOptional"]}
    assert needed == {"inputs", "model", "output"}

    def parsed(given):
        arguments = classify_arguments([f"--{name}={value}" for name, value in given.items()])
        options = ClassifyOptions.parse(arguments, "")
        assert not options.beam_args, "no parameter is left over for Beam"
        return options

    options = parsed(examples)
    assert options.inputs == ("gs://b/in", "gs://b/list.csv")
    assert options.runner == "DataflowRunner"
    for name in set(examples) - {"inputs"}:
        assert str(getattr(options, name)).lower() == examples[name].lower()
    parsed({name: examples[name] for name in needed})
    for name in needed:
        with pytest.raises(UserError):
            parsed({other: examples[other] for other in needed - {name}})


def test_what_the_launcher_adds_for_beam_stays(monkeypatch):
    from imagecensus.jobs.flex_template import WORKER_IMAGE, classify_arguments

    monkeypatch.setenv(WORKER_IMAGE, "workers:1")
    launcher = ["--runner=DataflowRunner", "--region=r", "--template_location=gs://b/job"]
    assert classify_arguments(["--embeddings=false", "--inputs=gs://b/a, b.jpg", *launcher]) == [
        "gs://b/a, b.jpg",
        *launcher,
        "--sdk_container_image=workers:1",
    ]
    text = (DEPLOY / "dataflow" / "Dockerfile.launcher").read_text()
    assert f"ENV {WORKER_IMAGE}=" in text


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("Dockerfile*")), ids=lambda p: p.parent.name)
def test_images_are_built_from_what_is_there(path):
    import apache_beam

    text = path.read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    sources = {word for line in copied for word in line.split()}
    assert "tests" not in sources
    assert all((fetch_engines.ROOT / source).exists() for source in sources)
    versions = re.findall(r"apache/beam_\S+:(\S+)|^ARG BEAM=(\S+)", text, re.MULTILINE)
    assert {version for pair in versions for version in pair} <= {"", apache_beam.__version__}
    if "pip install" in text:
        assert {"jobs", "transforms", "model_export"} <= sources
        assert re.search(r"--no-deps --require-hashes \\?\s*--requirement", text), "the lock"
        assert "[tensorflow]" not in text


def _page(name: str) -> str:
    """A page with its commands each on one line."""
    return re.sub(r" \\\n +", " ", (fetch_engines.ROOT / "docs" / name).read_text())


@pytest.mark.parametrize("page", ["dataflow.md", "flink.md", "gpu.md", "prism.md", "stores.md"])
def test_flags_of_commands_in_pages_are_flags(page):
    from imagecensus.jobs.classification.beam_flags import beam_flags, flags_of
    from imagecensus.jobs.command.options import known_flags
    from imagecensus.jobs.options.classify import ClassifyOptions

    known = {*beam_flags(), *known_flags(ClassifyOptions), "--help"}
    commands = re.findall(r"imagecensus (?:classify|doctor) (.+)", _page(page))
    flags = {flag for command in commands for flag in flags_of(command.replace("`", " ").split())}
    assert flags
    assert flags <= known


def test_the_steps_of_an_image_are_read_whole():
    found = build_steps.steps((DEPLOY / "dataflow" / "Dockerfile").read_text())
    assert [instruction for instruction, _ in found[:3]] == ["FROM", "COPY", "WORKDIR"]
    assert ("RUN", "pip install --no-cache-dir --no-deps --no-build-isolation .") in [
        (instruction, rest.partition(" &&")[0]) for instruction, rest in found
    ]


def test_the_pages_hold_the_commands_that_the_tests_run(tmp_path):
    import test_dataflow
    from flink_cluster import Cluster

    from imagecensus.jobs.classification.runners import dataflow_defaults

    lines = [line.strip() for line in _page("flink.md").splitlines()]
    commands = [line for line in lines if line.startswith("imagecensus classify")]
    on_cluster, on_one_machine, _ = (set(command.split()) for command in commands)
    flags = set(Cluster(tmp_path).job_flags)
    jar = {flag for flag in flags if "_jar=" in flag}
    assert flags - jar | {"--flink_job_server_jar=JAR"} <= on_cluster
    local = {"--flink_master='[local]'", f"--flink_version={fetch_engines.FLINK_MINOR}"}
    assert local <= on_one_machine
    assert f"Beam {fetch_engines.ASSEMBLED_BEAM}'s" in _page("flink.md")
    assert f"Flink {fetch_engines.FLINK}." in _page("flink.md")
    assert "--runner=PrismRunner --prism_location=" in _page("prism.md")
    assert "STORAGE_EMULATOR_HOST=http://localhost:4443 imagecensus" in _page("stores.md")
    dataflow = _page("dataflow.md")
    for flag in [*test_dataflow.BEAM_FLAGS, test_dataflow.IMAGE]:
        assert flag.split("=")[0] in dataflow or flag in ("--no_auth", "--job_name=census")
    for flag in dataflow_defaults([]):
        assert flag in dataflow or flag.startswith("--setup_file=")
