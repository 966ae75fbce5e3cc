"""What a watched log gains is told with its end, and without a secret, however the end is cut."""

from pathlib import Path

from runfold.events import LogUpdated
from runner.turns.logs import TAIL_BYTES, WatchedLogs


def test_what_was_added_is_told_with_its_end_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("old\n")
    logs = WatchedLogs(tmp_path, ["a.log", "b.log"], ())

    with (tmp_path / "a.log").open("a") as file:
        file.write("x" * 5_000 + "end\n")
    (tmp_path / "b.log").write_text("new\n")
    told = logs.look()

    assert [(it.path, it.bytes_added, len(it.tail), it.tail[-4:]) for it in told] == [
        ("a.log", 5_004, TAIL_BYTES, "end\n"),
        ("b.log", 4, 4, "new\n"),
    ]
    assert logs.look() == []


def test_a_log_that_shrank_has_begun_anew_and_one_that_went_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("a long beginning\n")
    logs = WatchedLogs(tmp_path, ["a.log"], ())

    (tmp_path / "a.log").write_text("anew\n")
    anew = logs.look()
    (tmp_path / "a.log").unlink()

    assert anew == [LogUpdated(path="a.log", bytes_added=5, tail="anew\n")]
    assert logs.look() == []


def test_no_cut_shows_the_end_of_a_secret_or_half_a_character(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    for cut in range(1, len(secret)):
        (tmp_path / "a.log").write_bytes(b"")
        logs = WatchedLogs(tmp_path, ["a.log"], (secret,))

        (tmp_path / "a.log").write_bytes(b"x" * 100 + secret.encode() + b"y" * (TAIL_BYTES - cut))
        (told,) = logs.look()

        assert told.tail == "y" * (TAIL_BYTES - cut)
    logs = WatchedLogs(tmp_path, ["c.log"], ())
    (tmp_path / "c.log").write_bytes("ü".encode() * TAIL_BYTES + b"!")

    assert logs.look()[0].tail == "ü" * (TAIL_BYTES // 2 - 1) + "!"
