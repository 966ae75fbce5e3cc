"""Settings come from the flag, then the environment, then runfold.toml, then the default, and say so."""

from pathlib import Path

import pytest

from cli.settings import load_settings
from runfold.errors import InvalidSetting


def write(folder: Path, text: str) -> None:
    (folder / "runfold.toml").write_text(text)


def test_a_flag_wins_over_everything(tmp_path: Path) -> None:
    write(tmp_path, "[settings]\nport = 1\n")

    settings = load_settings({"port": 3}, environ={"RUNFOLD_PORT": "2"}, folder=tmp_path)

    assert (settings.port, settings.sources["port"]) == (3, "--port")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "[settings]\nport = 1\n")

    settings = load_settings({"port": None}, environ={"RUNFOLD_PORT": "2"}, folder=tmp_path)

    assert (settings.port, settings.sources["port"]) == (2, "RUNFOLD_PORT")


def test_the_file_wins_over_the_default(tmp_path: Path) -> None:
    write(tmp_path, "[settings]\nport = 1\n")

    settings = load_settings({}, environ={}, folder=tmp_path)

    assert (settings.port, settings.sources["port"]) == (1, "runfold.toml")


def test_what_nobody_gave_has_a_default(tmp_path: Path) -> None:
    settings = load_settings({}, environ={}, folder=tmp_path)

    assert (settings.port, settings.sources["port"]) == (8321, "default")


def test_a_project_keeps_its_runs_beside_its_runfold_toml(tmp_path: Path) -> None:
    write(tmp_path, "")
    (tmp_path / "deep" / "er").mkdir(parents=True)

    settings = load_settings({}, environ={}, folder=tmp_path / "deep" / "er")

    assert settings.data == tmp_path / "data"


def test_the_checkout_keeps_its_runs_in_its_data_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "runfold"\n')

    settings = load_settings({}, environ={}, folder=tmp_path)

    assert settings.data == tmp_path / "data"


def test_elsewhere_runs_are_kept_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    settings = load_settings({}, environ={}, folder=tmp_path)

    assert settings.data.name == "runfold"
    assert settings.sources["data"] == "default for this user"


def test_a_data_folder_in_the_file_is_meant_from_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[settings]\ndata = "kept"\n')
    (tmp_path / "deep").mkdir()

    settings = load_settings({}, environ={}, folder=tmp_path / "deep")

    assert settings.data == tmp_path / "kept"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[settings]\nprot = 1\n", "prot"),
        ("[settings]\nport = 99999\n", "99999"),
        ('[settings]\nlog_level = "loud"\n', "loud"),
        ("settings = 3\n", "not a table"),
        ("[settings\n", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    write(tmp_path, text)

    with pytest.raises(InvalidSetting, match=named) as refusal:
        load_settings({}, environ={}, folder=tmp_path)

    assert refusal.value.hint
