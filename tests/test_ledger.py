"""Idempotency of the ledger on a real log: stored once, and answered as the first time whenever it comes again."""

import uuid
from contextlib import closing
from pathlib import Path

import pytest

from eventstore.ledger import Executed
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Annotate, Cancel, Command, Complete, Pause, Resume
from runfold.envelope import derived_id
from runfold.errors import AlreadyFinal, BadRequest, EventIdConflict, KeyReused, NotFound, TooLarge
from tests.ledgers import RUN, act, messages, new_ids, opened, say, stored
from tests.processes import output_of

KEY = str(uuid.uuid4())
IDS = new_ids(2)
RETRIES: dict[str, tuple[Command, str | None, list[str | None]]] = {
    "a command with its key": (Annotate(note="n"), KEY, []),
    "a pause with its key": (Pause(reason="r"), KEY, []),
    "events with their ids": (say("a", "b"), None, [*IDS]),
    "events with a key": (say("a", "b"), KEY, []),
    "events with key and ids": (say("a", "b"), KEY, [*IDS]),
    "events of which one has an id": (say("a", "b"), None, [None, IDS[1]]),
}


@pytest.mark.parametrize("name", RETRIES)
async def test_a_retry_gets_its_original_answer_at_once_later_after_the_end_and_after_a_restart(
    tmp_path: Path, name: str
) -> None:
    command, key, ids = RETRIES[name]
    async with opened(tmp_path) as ledger:

        async def again() -> Executed:
            return await act(ledger, command, command_id=key, ids=ids)

        first = await again()
        answers = [await again()]
        await act(ledger, say("something else"))
        answers.append(await again())
        await act(ledger, Cancel(reason="enough"))
        answers.append(await again())
        count = len(stored(tmp_path))
    async with opened(tmp_path) as ledger:
        answers.append(await again())

    assert not first.duplicate
    assert first.events
    for answer in answers:
        assert answer.duplicate
        assert answer.events == first.events
    assert len(stored(tmp_path)) == count


async def test_a_retry_from_another_process_gets_the_original_answer(tmp_path: Path) -> None:
    (name,) = new_ids(1)
    async with opened(tmp_path) as ledger:
        first = await act(ledger, say(name), ids=[name])
        output = await output_of("report.py", tmp_path, RUN, name)

    assert output == f"{name} {first.events[0].position} True\n"


@pytest.mark.parametrize(
    "other",
    [Annotate(note="other"), Pause(reason="r"), say("n"), Complete()],
    ids=["text", "command", "events", "end"],
)
async def test_a_command_id_used_for_something_else_is_refused_and_nothing_is_stored(
    tmp_path: Path, other: Command
) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, Annotate(note="n"), command_id=KEY)
        before = stored(tmp_path)

        with pytest.raises(KeyReused, match=RUN):
            await act(ledger, other, command_id=KEY)

        assert stored(tmp_path) == before


async def test_a_command_id_reused_with_new_event_ids_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, say("a"), command_id=KEY, ids=IDS[:1])

        with pytest.raises(KeyReused):
            await act(ledger, say("b"), command_id=KEY, ids=IDS[1:])

    assert messages(tmp_path) == ["a"]


async def test_an_event_id_with_other_content_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, say("a"), ids=IDS[:1])

        with pytest.raises(EventIdConflict, match=IDS[0]):
            await act(ledger, say("b"), ids=IDS[:1])

    assert messages(tmp_path) == ["a"]


async def test_a_retry_in_another_batch_shape_gets_the_positions_of_its_events(tmp_path: Path) -> None:
    ids = new_ids(3)
    async with opened(tmp_path) as ledger:
        first = await act(ledger, say("a", "b"), ids=ids[:2])
        second = await act(ledger, say("c"), ids=ids[2:])

        part = await act(ledger, say("b"), ids=ids[1:2])
        whole = await act(ledger, say("a", "b", "c"), ids=ids)

    assert part.duplicate
    assert part.events == first.events[1:]
    assert whole.duplicate
    assert list(whole.events) == [*first.events, *second.events]
    assert messages(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("texts", "ids", "why"),
    [
        (("a", "new"), [IDS[0], str(uuid.uuid4())], "is new"),
        (("new", "a"), [str(uuid.uuid4()), IDS[0]], "is new"),
        (("a", "new"), [IDS[0], None], "without an id"),
        (("b", "a"), [IDS[1], IDS[0]], "another order"),
    ],
    ids=["known-new", "new-known", "known-nameless", "reordered"],
)
async def test_a_batch_that_is_known_in_part_or_in_another_order_is_refused_as_a_whole(
    tmp_path: Path, texts: tuple[str, ...], ids: list[str | None], why: str
) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, say("a", "b"), ids=IDS)

        with pytest.raises(EventIdConflict, match=why):
            await act(ledger, say(*texts), ids=ids)

    assert messages(tmp_path) == ["a", "b"]


async def test_the_ids_of_what_a_command_becomes_are_derived_from_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        answer = await act(ledger, say("a", "b"), command_id=KEY, ids=[IDS[0], None])

    assert [recorded.id for recorded in answer.events] == [IDS[0], derived_id(KEY, "1")]
    assert {recorded.command for recorded in answer.events} == {KEY}


async def test_a_command_that_made_no_event_is_decided_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, Pause())
        nothing = await act(ledger, Pause(), command_id=KEY)
        await act(ledger, Resume())

        again = await act(ledger, Pause(), command_id=KEY)

    assert nothing.events == ()
    assert not again.duplicate
    assert "run_paused" in [recorded.type for recorded in again.events]


async def test_two_events_of_the_same_content_are_stored_with_different_digests_of_what_was_sent(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as ledger:
        answer = await act(ledger, say("the same", "the same"), ids=IDS)

    assert answer.events[0].sent != answer.events[1].sent


async def test_a_run_of_another_tenant_answers_word_for_word_like_an_unknown_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, say("a"), ids=IDS[:1], command_id=KEY)
        told: set[str] = set()
        for run_id in (RUN, "r_x"):
            for command, ids in ((Pause(), ()), (say("a"), IDS[:1]), (say("z"), ())):
                with pytest.raises(NotFound) as caught:
                    await act(ledger, command, run_id=run_id, ids=ids, command_id=KEY, tenant="other")
                told.add(f"{caught.value.message} {caught.value.hint}".replace(run_id, "RUN"))
            with pytest.raises(NotFound) as caught:
                await ledger.state(run_id, tenant="other")
            told.add(f"{caught.value.message} {caught.value.hint}".replace(run_id, "RUN"))

    assert len(told) == 1
    assert messages(tmp_path) == ["a"]


async def test_a_batch_of_more_than_500_events_is_too_large_and_leaves_nothing(tmp_path: Path) -> None:
    texts, ids = ["x"] * 501, new_ids(501)
    async with opened(tmp_path) as ledger:
        with pytest.raises(TooLarge, match="501"):
            await act(ledger, say(*texts), ids=ids, command_id=KEY)

    assert messages(tmp_path) == []


async def test_an_id_that_is_no_uuid_or_twice_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for ids in (["x"], [IDS[0], IDS[0]], new_ids(3)):
            with pytest.raises(BadRequest):
                await act(ledger, say("a", "b"), ids=ids)
        with pytest.raises(BadRequest):
            await act(ledger, Pause(), command_id="x")

    assert messages(tmp_path) == []


async def test_a_late_event_is_refused_but_not_one_that_was_taken_before_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await act(ledger, say("a"), ids=IDS[:1])
        await act(ledger, Complete())

        with pytest.raises(AlreadyFinal):
            await act(ledger, say("b"), ids=IDS[1:])
        again = await act(ledger, say("a"), ids=IDS[:1])

    assert again.events == first.events


def test_ids_of_a_commands_events_are_the_v5_uuids_that_anyone_can_derive() -> None:
    for number in range(200):
        command_id = str(uuid.UUID(int=number << 97 | number))

        assert derived_id(command_id, str(number)) == str(uuid.uuid5(uuid.UUID(command_id), str(number)))


def test_ids_of_a_commands_events_follow_the_time_of_its_id_where_that_has_one() -> None:
    early, late = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac97-7000-8000-000000000000"
    made = [derived_id(command_id, str(number)) for command_id in (early, late) for number in range(100)]

    assert {text[:15] for text in made[:100]} == {"01890a5d-ac96-8"}
    assert max(made[:100]) < min(made[100:])
    assert len(set(made)) == 200
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(8, uuid.RFC_4122)}
    assert derived_id(early.upper(), "0") == made[0]


async def test_an_append_to_a_long_run_writes_no_more_pages_than_one_to_a_short_run(tmp_path: Path) -> None:
    pages: list[int] = []
    async with opened(tmp_path) as ledger:
        with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
            for _ in range(60):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                await act(ledger, say(*["text"] * 100))
                pages.append(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])

    assert max(pages[-10:]) <= 1.5 * max(pages[:10])
