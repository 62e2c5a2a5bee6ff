"""Typed configurations: refusals in words, YAML round trips, overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from vitrail.config import Config, ConfigError, Listed


class Optimizer(Config):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    kind: Literal["adamw", "sgd"] = "adamw"


class Training(Config):
    epochs: int = 10
    optimizer: Optimizer = Optimizer()
    name: str | None = None


def test_unknown_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        Training.parse({"epoch": 3})


def test_unknown_nested_key_gets_a_suggestion_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"'optimizer\.learning_rat'; did you mean 'optimizer\.learning_rate'"):
        Training().override(["optimizer.learning_rat=1"])


def test_unknown_key_without_a_likeness_lists_what_is_known() -> None:
    with pytest.raises(ConfigError, match="known: epochs, optimizer, name"):
        Training.parse({"zzz": 3})


def test_wrong_type_names_key_and_value() -> None:
    with pytest.raises(ConfigError, match="epochs = 'many'"):
        Training.parse({"epochs": "many"})


def test_wrong_choice_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.kind = 'adam'.*adamw.*sgd"):
        Training().override(["optimizer.kind=adam"])


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("3E5", 3e5), ("2", 2.0), ("0.5", 0.5), ("-1.5e-2", -1.5e-2)]
)
def test_overrides_read_numbers_as_people_write_them(text: str, value: float) -> None:
    assert Training().override([f"optimizer.learning_rate={text}"]).optimizer.learning_rate == value


def test_overrides_read_lists_null_and_text() -> None:
    changed = Training().override(["optimizer.betas=[0.8, 0.9]", "name=first run", "epochs=7"])
    assert (changed.optimizer.betas, changed.name, changed.epochs) == ((0.8, 0.9), "first run", 7)
    assert changed.override(["name=null"]).name is None
    assert changed.override(["name="]).name == ""


@pytest.mark.parametrize("text", ["epochs", "=3", " = 2"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not of the form key\.subkey=value"):
        Training().override([text])


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'epochs' is the value 10"):
        Training().override(["epochs.more=2"])


class Shares(Config):
    keeps: Annotated[tuple[float, ...], Listed] = (0.5,)
    only: Annotated[tuple[str, ...] | None, Listed] = None


def test_a_list_is_written_with_commas() -> None:
    assert Shares().override(["keeps=0.25,1"]).keeps == (0.25, 1)
    assert Shares().override(["keeps=0.25"]).keeps == (0.25,)
    assert Shares().override(["keeps=[0.25, 1]"]).keeps == (0.25, 1)
    assert Shares().override(["keeps="]).keeps == ()
    assert Shares().override(["only=screen, traffic light"]).only == ("screen", "traffic light")
    assert Shares(only=("a,b",)).override(["only=null"]).only is None
    with pytest.raises(ConfigError, match=r"keeps\.1 = 'half'"):
        Shares().override(["keeps=0.25,half"])


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = Training().override(["optimizer.betas=[0.5, 0.6]", "name=ä"])
    config.save(tmp_path / "c.yaml")
    assert Training.load(tmp_path / "c.yaml") == config
    assert Training.load(tmp_path / "c.yaml", ["epochs=1"]).epochs == 1


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Training().epochs = 3  # type: ignore[misc]


def test_overriding_leaves_the_original_alone() -> None:
    config = Training()
    config.override(["optimizer.learning_rate=1"])
    assert config.optimizer.learning_rate == 1e-3


@pytest.mark.parametrize(("content", "message"), [("- 1\n- 2", "holds list"), ("a: [", "not valid YAML")])
def test_a_broken_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Training.load(tmp_path / "c.yaml")


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        Training.load(tmp_path / "none.yaml")


def test_a_field_of_several_types_is_named_as_people_write_it() -> None:
    class Cut(Config):
        threshold: Literal["held_out"] | Annotated[float, Field(ge=0, lt=1)] = 0.5
        size: int | tuple[int, int] = 8

    with pytest.raises(ConfigError) as error:
        Cut().override(["threshold=2", "size=[1, 2, 3]"])
    words = str(error.value)
    for said in ("threshold = 2: ", "'held_out'", "less than 1", "size = [1, 2, 3]: ", "at most 2"):
        assert said in words
    for inner in ("constrained", "literal[", "tuple["):
        assert inner not in words
