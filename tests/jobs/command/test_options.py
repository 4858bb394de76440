"""Options as dataclasses: values that look like flags, misspelt flags, and empty inputs."""

import dataclasses

import pytest

from imagecensus.jobs import cli
from imagecensus.jobs.command.options import (
    Options,
    argument,
    option,
    size_in_bytes,
    unknown_flags,
)
from imagecensus.model_export.common.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleOptions(Options):
    """Tests."""

    images: tuple[str, ...] = argument("images", nargs="+", metavar="IMAGE")
    output: str = option(None, "where to", required=True)
    input_range: str = option("", "pixels")
    limit: float = option(0.0, "number")
    quick: bool = option(False, "no value")


def parse(*words):
    return ExampleOptions.parse(words, "imagecensus test")


def test_values_may_begin_with_a_dash():
    options = parse("a.jpg", "--input-range", "-1..1", "--limit", "-.5", "--output", "o")
    assert (options.input_range, options.limit) == ("-1..1", -0.5)
    assert parse("a.jpg", "--quick", "--output", "-1..1").output == "-1..1"


@pytest.mark.parametrize("words", [("", "--output", "o"), ("a.jpg", "--output", "")])
def test_empty_inputs_and_outputs_are_refused(words):
    with pytest.raises(UserError, match="(IMAGE|--output) is empty"):
        parse(*words)


def test_a_misspelt_flag_is_named_before_the_one_that_is_missing():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OpenOptions(ExampleOptions):
        rest: tuple[str, ...] = unknown_flags()

    for cls in (ExampleOptions, OpenOptions):
        with pytest.raises(UserError, match="did you mean --output"):
            cls.parse(["a.jpg", "--ouput", "o"], "imagecensus test")
    assert OpenOptions.parse(["a.jpg", "--other", "--output=o"], "").rest == ("--other",)


def test_a_positional_argument_that_is_given_as_a_flag():
    with pytest.raises(UserError, match="--images; give IMAGES without it"):
        parse("a.jpg", "--images", "b.jpg", "--output", "o")


def test_arguments_may_stand_between_flags():
    options = parse("a.jpg", "--quick", "b.jpg", "--output", "o", "c.jpg")
    assert options.images == ("a.jpg", "b.jpg", "c.jpg")


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["--output", "o"],
            r"^missing: IMAGE\nusage: imagecensus test IMAGE\.\.\. \[options\]; --help explains",
        ),
        (["a.jpg"], "^missing: --output\n"),
        (["a.jpg", "--output"], "^--output: expected one argument\n"),
        (["a.jpg", "--output=o", "--limit=x"], "^--limit: 'x' is not a number\n"),
        (["a.jpg", "--output=o", "--count=9", f"--count={2**63}"], "is not a whole number of 64"),
        (["a.jpg", "--output=o", "--size=x"], "^--size: 'x' is not a size, such as 512M or 2G\n"),
    ],
)
def test_what_cannot_be_parsed_is_a_sentence(words, said):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SizeOptions(ExampleOptions):
        size: int = option(2**31, "size", type=size_in_bytes)
        count: int = option(0, "count")

    with pytest.raises(UserError, match=said):
        SizeOptions.parse(words, "imagecensus test")


@pytest.mark.parametrize(
    "line, said",
    [
        ("report out --sample=-1", "--sample cannot be negative"),
        ("browse out --port=99999", "--port must be from 0 to 65535"),
        ("plan . --images=0", "--images must be at least 1"),
        ("plan . --vcpus=0", "--vcpus must be at least 1"),
        ("export . --output=m --input-range=0..1 --image-size=-1", "--image-size cannot be"),
        (f"classify . --output={__file__}", "a file; give a folder"),
        (f"classify . --output={__file__}/out", f"{__file__} is a file; give a folder"),
        ("classify hdfs://h/x --output=o", "hdfs:// is not read here; copy the images to a folder"),
        ("classify . --output=o --exclude=", "--exclude is empty; a variable may be unset"),
    ],
)
def test_what_no_command_can_do_is_refused_at_once(line, said):
    name, *words = line.split()
    with pytest.raises(UserError, match=said):
        cli.parse(name, words)


@pytest.mark.parametrize("start", ["file://", "file://localhost", "file:"])
def test_an_input_may_be_a_file_uri_as_the_table_has_it(tmp_path, start):
    folder = tmp_path / "a b"
    folder.mkdir()
    for name, more in (("classify", ["--output=o"]), ("plan", [])):
        assert cli.parse(name, [f"{start}{tmp_path}/a%20b", *more]).inputs == (str(folder),)


def test_help_is_as_wide_as_the_terminal(monkeypatch, capsys):
    for name in cli.COMMANDS:
        monkeypatch.setenv("COLUMNS", "60")
        with pytest.raises(SystemExit, match="0"):
            cli.parse(name, ["--help"])
        wide = [line for line in capsys.readouterr().out.splitlines() if len(line) > 60]
        assert all(" " not in line.strip() for line in wide), f"{name}: {wide}"
