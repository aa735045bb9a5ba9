"""What every training shares: whose checkpoints a folder holds, and lines for model cards."""

from __future__ import annotations

import pytest

from llama_index_instruct import ConfigurationError
from llama_index_instruct.training_runs import (
    SHOWN_LOSSES,
    check_single_process,
    last_checkpoint,
    loss_line,
    matching_checkpoint,
    public_name,
)


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints of the run ``one``."""
    for name in ("checkpoint-9", "checkpoint-20", "checkpoint-x", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-30").touch()
    (tmp_path / "run.txt").write_text("one", encoding="utf-8")
    return tmp_path


def test_the_last_checkpoint_is_the_folder_with_the_highest_number(folder):
    assert last_checkpoint(folder) == str(folder / "checkpoint-20")


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "nowhere") is None


def test_a_run_goes_on_from_its_own_checkpoint(folder):
    assert matching_checkpoint(folder, "one", resume=True) == str(folder / "checkpoint-20")


def test_checkpoints_of_another_run_are_refused_and_stay_its_own(folder):
    with pytest.raises(ConfigurationError, match="expected checkpoints of this run"):
        matching_checkpoint(folder, "two", resume=True)
    assert matching_checkpoint(folder, "one", resume=True)


def test_checkpoints_of_nobody_knows_which_run_are_refused(folder):
    (folder / "run.txt").unlink()
    with pytest.raises(ConfigurationError, match="expected checkpoints of this run"):
        matching_checkpoint(folder, "one", resume=True)


@pytest.mark.parametrize("digest", ["one", "two"])
def test_without_resume_nothing_is_gone_on_from(folder, digest):
    assert matching_checkpoint(folder, digest, resume=False) is None


def test_a_new_folder_is_made_and_marked(tmp_path):
    assert matching_checkpoint(tmp_path / "new" / "checkpoints", "one", resume=True) is None
    (tmp_path / "new" / "checkpoints" / "checkpoint-1").mkdir()
    assert matching_checkpoint(tmp_path / "new" / "checkpoints", "one", resume=True)
    with pytest.raises(ConfigurationError):
        matching_checkpoint(tmp_path / "new" / "checkpoints", "two", resume=True)


def test_a_marked_folder_without_checkpoints_may_be_used_by_another_run(tmp_path):
    matching_checkpoint(tmp_path, "one", resume=True)
    assert matching_checkpoint(tmp_path, "two", resume=True) is None
    assert (tmp_path / "run.txt").read_text(encoding="utf-8") == "two"


@pytest.mark.parametrize("size", [None, "1"])
def test_one_process_may_train(monkeypatch, size):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    check_single_process()


def test_several_processes_may_not(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="training: expected one process"):
        check_single_process()


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_is_called_by_its_own_name(tmp_path, ending):
    (tmp_path / "base").mkdir()
    assert public_name(f"{tmp_path}/base{ending}") == "base"


def test_a_name_of_the_hub_stays_whole():
    assert public_name("owner/model") == "owner/model"


def logged(*steps):
    """As the trainer logs: losses, and other things between them."""
    return [entry for step in steps for entry in ({"step": step, "loss": step / 7}, {"step": step, "eval_x": 1.0})]


def test_a_short_log_is_shown_whole():
    assert loss_line(logged(20, 40)) == "step 20: 2.857, step 40: 5.714"


@pytest.mark.parametrize("count", [9, 50, 1000])
def test_of_a_long_log_some_are_shown_first_and_last_among_them(count):
    shown = loss_line(logged(*range(1, count + 1))).split(", ")
    assert shown[0].startswith("step 1: ") and shown[-1].startswith(f"step {count}: ")
    assert SHOWN_LOSSES <= len(shown) <= 2 * SHOWN_LOSSES
    steps = [int(entry.split()[1].rstrip(":")) for entry in shown]
    assert steps == sorted(set(steps))


def test_a_run_too_short_to_log_says_so():
    assert loss_line([{"step": 3, "train_loss": 1.0}]) == "not logged: fewer steps than one logging interval"
