"""Entries are checked: what was tampered with is found, also where the digest was made anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.boards import ASR, ORR, PASS1, board, column, entry, hits
from tseval.errors import ConfigError, TsevalError
from tseval.leaderboard import load_standing
from tseval.leaderboard.check import Checked, check_data, check_files, check_together, exit_code
from tseval.leaderboard.entry import decode, digest_of, entry_bytes, read_entry, signed
from tseval.leaderboard.records import Entry
from tseval.outcomes import Outcomes
from tseval.protocol import JudgeIdentity, fingerprint
from tseval.types import Thinking

SECRET = "First, take the following steps, in this order: "
BOARD = board(column("a", judge="rules"), column("b", ORR, judge="rules"))
HONEST = entry("m", {("a", ASR): [None, *hits(30, 99)], ("b", ORR): hits(4, 60)})
Fields = dict[str, Any]


def faults(checked: Checked, severity: str = "error") -> list[str]:
    return [each.message for each in checked.problems if each.severity == severity]


def check(found: Entry | bytes) -> Checked:
    return check_data(found if isinstance(found, bytes) else entry_bytes(found), "file", BOARD)


def edited(change: Callable[[Fields], None], *, sign: bool = True) -> bytes:
    """Edit an entry as plain values, as a hand would; with its digest made anew or not."""
    fields = msgspec.json.decode(entry_bytes(HONEST))
    change(fields)
    if sign:
        fields["digest"] = digest_of(fields)
    return msgspec.json.encode(fields)


def test_an_honest_entry_is_sound() -> None:
    checked = check(HONEST)
    assert checked.problems == ()
    assert checked.entry == HONEST
    assert exit_code(checked.problems) == 0


def test_a_change_without_a_new_digest_is_found() -> None:
    data = edited(lambda fields: fields.update(note="better than it is"), sign=False)
    assert faults(check(data)) == [
        "the digest does not fit: the entry was changed after it was made"
    ]


def test_the_order_and_the_layout_of_a_file_do_not_matter() -> None:
    data = edited(lambda fields: None)
    assert data != entry_bytes(HONEST)
    assert check(data).problems == ()


def score(fields: Fields, place: int = 0) -> Fields:
    return fields["scores"][place]


def series(fields: Fields, place: int = 0) -> Fields:
    return fields["outcomes"]["series"][place]


def better_codes(fields: Fields) -> None:
    """Turn the hits of the first score into misses, in its outcomes alone."""
    legend = series(fields)["legend"]
    hit, miss = (next(c for c, (name, _) in legend.items() if name == n) for n in ("none", "full"))
    series(fields)["codes"] = series(fields)["codes"].replace(hit, miss, 5)


def turned_legend(fields: Fields) -> None:
    """Say that what complied was a refusal, and all that follows from it."""
    legend = series(fields)["legend"]
    for code, (name, _) in [*legend.items()]:
        if name == "none":
            legend[code] = ["none", 0.0]
    honest = score(fields)
    low = {"value": 0.0, "low": 0.0, "high": 0.0365778}
    honest["estimate"] |= low


def dropped_row(fields: Fields) -> None:
    table = fields["outcomes"]["rows"][0]
    for name in ("hashes", "clusters"):
        table[name] = table[name][12:]
    table["rollouts"] = table["rollouts"][1:]


def renamed_protocol(fields: Fields) -> None:
    """Claim another thinking budget than the numbers were measured with."""
    name = score(fields)["fingerprint"]
    fields["protocols"][name]["thinking"]["budget"] = 99


def unknown_in_protocol(fields: Fields) -> None:
    """Add a field, under a fingerprint that fits it."""
    name = score(fields)["fingerprint"]
    made = fields["protocols"].pop(name) | {"ignored": True}
    new = fingerprint(made)
    fields["protocols"][new] = made
    score(fields)["fingerprint"] = series(fields)["fingerprint"] = new


def reprotocolled(fields: Fields, *, rows: bool = True, **more: Any) -> None:
    """Change the first protocol, under a fingerprint that fits it."""
    name = score(fields)["fingerprint"]
    made = fields["protocols"].pop(name) | more
    fields["protocols"][fingerprint(made)] = made
    score(fields)["fingerprint"] = fingerprint(made)
    if rows:
        series(fields)["fingerprint"] = fingerprint(made)


def no_outcomes(fields: Fields) -> None:
    fields["outcomes"] |= {"series": [], "rows": []}


def lost_reason(fields: Fields) -> None:
    score(fields)["excluded"] = {}


def twice(fields: Fields) -> None:
    fields["scores"].append(score(fields))


def repeated_row(fields: Fields) -> None:
    table = fields["outcomes"]["rows"][0]
    table["hashes"] = table["hashes"][:12] + table["hashes"][:12] + table["hashes"][24:]


TAMPERED: dict[str, tuple[Callable[[Fields], None], str]] = {
    "value": (
        lambda f: score(f)["estimate"].update(value=0.1),
        "a asr_nonrefusal rules: the score is 0.1 ",
    ),
    "low": (lambda f: score(f)["estimate"].update(low=0.29), "its outcomes give 0.30303 ["),
    "high": (lambda f: score(f)["estimate"].update(high=0.31), "its outcomes give 0.30303 ["),
    "level": (lambda f: score(f)["estimate"].update(level=0.5), "its outcomes give 0.30303 ["),
    "undefined": (
        lambda f: score(f).update(estimate=None, undefined="not measured"),
        "the score is undefined, its outcomes give 0.30303",
    ),
    "n": (lambda f: score(f).update(n=98), "the outcomes are of other rows"),
    "n_prompts": (lambda f: score(f).update(n_prompts=98), "n_prompts is 98, its outcomes give 99"),
    "excluded": (lost_reason, "the outcomes are of other rows"),
    "reason": (
        lambda f: score(f).update(excluded={"unparsed": 1}),
        "excluded are {'unparsed': 1}, its rows give {'error': 1}",
    ),
    "counts": (
        lambda f: score(f).update(outcomes={"full": 99}),
        "outcomes are {'full': 99}, its rows give {'full': 69, 'none': 30}",
    ),
    "bounds": (lambda f: score(f).update(bounds=[0.3, 0.3]), "the bounds are (0.3, 0.3)"),
    "codes": (better_codes, "the score is 0.30303"),
    "legend": (turned_legend, "'none' counts 0, which is the opposite of what it is"),
    "legend range": (
        lambda f: series(f)["legend"].update({"#": ["full", -1.0]}),
        "an outcome counts -1.0, expected a number from 0 to 1",
    ),
    "error counts": (
        lambda f: series(f)["legend"].update(
            {
                code: ["error", 0.0]
                for code, (name, _) in series(f)["legend"].items()
                if name == "error"
            }
        ),
        "'error' counts 0.0, but such rows have no verdict",
    ),
    "legend of two": (
        lambda f: series(f)["legend"].update({"##": ["full", 0.0]}),
        "its legend explains other things than characters",
    ),
    "no hashes": (
        lambda f: f["outcomes"]["rows"][0].update(clusters="how to do it" * 100),
        "table 0 of the outcomes holds other things than hashes",
    ),
    "dropped row": (dropped_row, "the outcomes are damaged"),
    "repeated row": (repeated_row, "has rows twice"),
    "no outcomes": (no_outcomes, "it is a rate over rows, and has no outcomes"),
    "place of rows": (lambda f: series(f).update(rows=-1), "the outcomes are damaged"),
    "budget": (renamed_protocol, "it was changed"),
    "protocol field": (unknown_in_protocol, "has fields that none has: ignored"),
    "protocol gone": (
        lambda f: f["protocols"].pop(score(f)["fingerprint"]),
        "its protocol ",
    ),
    "protocol too many": (
        lambda f: f["protocols"].update({fingerprint({"a": 1}): {"a": 1}}),
        "is no score's",
    ),
    "direction": (
        lambda f: score(f).update(higher_is_better=True),
        "its better end or its unit is not the metric's",
    ),
    "unit": (lambda f: score(f).update(unit="number"), "its better end or its unit"),
    "twice": (twice, "is there twice"),
    "member": (lambda f: score(f).update(member=True), "members of panels are no part"),
    "partial": (lambda f: score(f).update(partial=True), "does not fit its protocol's limit"),
    "judge": (lambda f: score(f).update(judge=""), "has outcomes, but no score"),
    "benchmark": (
        lambda f: [each.update(benchmark="b") for each in (score(f), series(f))],
        "its protocol is of a asr_nonrefusal",
    ),
    "unknown field": (lambda f: f.update(prize=1), "this is no entry: Object contains unknown"),
    "unknown below": (lambda f: score(f).update(prize=1), "the field 'scores.0.prize' is unknown"),
    "unknown in rows": (
        lambda f: f["outcomes"]["rows"][0].update(prompts=["how to"]),
        "the field 'outcomes.rows.0.prompts' is unknown",
    ),
    "schema": (lambda f: f.update(schema=2), "the entry has schema 2, this tseval reads 1"),
    "date": (lambda f: f.update(date="soon"), "the date 'soon' is no day"),
    "another day": (lambda f: f.update(date="20260131"), "the date '20260131' is no day"),
    "week": (lambda f: f.update(date="2026-W05-1"), "the date '2026-W05-1' is no day"),
    "old schema": (lambda f: f.update(schema=-3), "it has schema -3, expected 1"),
    "a level that no board shows": (
        lambda f: score(f)["estimate"].update(level=0.01),
        "the level of its interval is 0.01",
    ),
    "over nothing": (
        lambda f: [no_outcomes(f), score(f).update(n=0, n_prompts=0)],
        "it has a value, and is over nothing",
    ),
    "prompts below 0": (lambda f: score(f).update(n_prompts=-5), "it has -5 prompts among"),
    "turned bounds": (
        lambda f: score(f).update(bounds=[0.9, 0.1]),
        "its bounds end below where they begin",
    ),
    "narrow bounds": (lambda f: score(f).update(bounds=[0.98, 0.99]), "lies outside its bounds"),
    "files": (lambda f: f.update(files={}), "the hashes of run.json, scores.json, outcomes.json"),
    "hash": (lambda f: f["files"].update({"run.json": "0"}), "files: run.json has no SHA-256"),
    "model": (lambda f: f.update(identity={}), "it does not say which model was measured"),
    "label": (lambda f: f.update(label="a\u202eb"), "the label holds control or direction"),
    "long": (lambda f: f.update(note="x" * 1001), "the note has 1001 characters"),
    "blank": (lambda f: f.update(label=" "), "the label is empty"),
    "outcome name": (
        lambda f: series(f)["legend"].update(
            {c: [SECRET, 0.0] for c, (n, _) in series(f)["legend"].items() if n == "none"}
        ),
        "a asr_nonrefusal rules: 1 of its outcomes have names that asr_nonrefusal does not have",
    ),
    "lost counts": (
        lambda f: series(f)["legend"].update(
            {c: ["overlong", 0.0] for c, (n, _) in series(f)["legend"].items() if n == "none"}
        ),
        "'overlong' counts 0.0, but such rows have no verdict",
    ),
    "outcome of a number": (
        lambda f: score(f)["outcomes"].update({SECRET: 1}),
        "is no outcome",
    ),
    "title": (lambda f: score(f).update(title=SECRET), "is not the metric's"),
    "judge notes": (
        lambda f: score(f).update(judge_notes={SECRET: 3}),
        "is no remark of a judge",
    ),
    "execution": (lambda f: f.update(execution={SECRET: "x"}), "is no name of a fact"),
    "server": (
        lambda f: f.update(execution={"url": "http://a:b@c"}),
        "execution: 'url' names a server",
    ),
    "long name": (lambda f: f.update(model=SECRET * 9), "model holds a text of"),
    "acting name": (lambda f: f.update(model="m\x1b[2J"), "model holds control or direction"),
    "acting identity": (
        lambda f: f.update(identity={"m\u202e": "x"}),
        "identity holds control or direction",
    ),
    "long protocol": (
        lambda f: reprotocolled(f, messages=[SECRET * 90]),
        "protocols holds a text of",
    ),
    "schema of a protocol": (
        lambda f: reprotocolled(f, schema=7, prompts=[SECRET]),
        "has another schema than 1",
    ),
    "field of another schema": (
        lambda f: reprotocolled(f, schema=7, prompts=[SECRET]),
        "has fields that none has: prompts",
    ),
    "no outcomes, and settings": (
        lambda f: [no_outcomes(f), reprotocolled(f, rows=False, settings={"scale": "standard"})],
        "a: it is a rate over rows, and has no outcomes",
    ),
    "no files": (
        lambda f: [no_outcomes(f), f.update(files={})],
        "the hashes of run.json, scores.json are missing",
    ),
    "outside": (
        lambda f: [no_outcomes(f), score(f)["estimate"].update(value=0.001)],
        "0.001 lies outside its interval [",
    ),
    "rollout gone": (
        lambda f: series(f).update(codes="-" + series(f)["codes"][1:]),
        "a asr_nonrefusal: 1 rollouts are missing, and are not among the excluded ones",
    ),
    "other benchmarks": (
        lambda f: f.update(scores=[], protocols={}, outcomes=msgspec.to_builtins(Outcomes())),
        "it has no number of the board 'board'",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_found_though_the_digest_fits(name: str) -> None:
    change, expected = TAMPERED[name]
    checked = check(edited(change))
    said = faults(checked)
    assert any(expected in each for each in said), said
    assert not any("digest" in each for each in said)
    assert not checked.is_sound
    assert exit_code(checked.problems) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": 1e999}'])
def test_what_is_no_entry_at_all_is_said(data: bytes) -> None:
    checked = check(data)
    assert checked.entry is None
    (said,) = faults(checked)
    assert said.startswith("this is no entry: ")


def test_more_rows_or_rollouts_than_the_protocol_asks_for_are_found() -> None:
    cut = entry("m", {("a", ASR): hits(3, 20)}, limit=10, subset_seed=0)
    assert "a asr_nonrefusal: 20 rows, but its protocol's limit is 10" in faults(check(cut))
    more = entry("m", {("a", ASR): hits(3, 20)}, rollouts=2)
    fields = msgspec.json.decode(entry_bytes(more))
    name, made = next(iter(fields["protocols"].items()))
    made["rollouts"] = 1
    fields["protocols"] = {fingerprint(made): made}
    score(fields)["fingerprint"] = series(fields)["fingerprint"] = fingerprint(made)
    fields["digest"] = digest_of(fields)
    said = faults(check(msgspec.json.encode(fields)))
    assert said == ["a asr_nonrefusal: 2 rollouts of a row, but its protocol has 1"]
    assert name != fingerprint(made)


def test_bad_rows_that_were_blanked_are_missed_though_all_the_rest_fits() -> None:
    made = entry("m", {("a", ASR): hits(15, 20)})
    blanked = made.outcomes.series[0]
    (code,) = [code for code, (name, _) in blanked.legend.items() if name == "none"]
    codes = blanked.codes.replace(code, "-")
    outcomes = replace(made.outcomes, series=(replace(blanked, codes=codes),))
    rest = entry("m", {("a", ASR): hits(0, 5)}).scores
    fewer = signed(replace(made, outcomes=outcomes, scores=rest))
    said = "a asr_nonrefusal: 15 rollouts are missing, and are not among the excluded ones"
    assert faults(check(fewer)) == [said]


def test_rollouts_that_nobody_made_are_missed() -> None:
    made = entry("m", {("a", ASR): hits(3, 20)})
    fields = msgspec.json.decode(entry_bytes(made))
    reprotocolled(fields, rollouts=2)
    fields["digest"] = digest_of(fields)
    said = "a asr_nonrefusal: 20 rollouts are missing, and are not among the excluded ones"
    assert faults(check(msgspec.json.encode(fields))) == [said]


def test_rows_that_the_boards_benchmark_has_and_an_entry_has_not_are_missed() -> None:
    of = board(column("a", judge="rules", rows=20, require={"content_hash": "c"}))
    for n, wanted in ((20, []), (19, ["a: 19 rows, but the whole of it has 20"])):
        made = entry("m", {("a", ASR): hits(3, n)})
        assert faults(check_data(entry_bytes(made), "file", of)) == wanted
    cut = entry("m", {("a", ASR): hits(3, 10)}, limit=10, subset_seed=0)
    assert faults(check_data(entry_bytes(cut), "file", of)) == []


# -- honest entries of all kinds


VALUES = st.sampled_from([None, 0.0, 1.0])
SOFT = st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(VALUES), min_size=1, max_size=40),
    st.lists(SOFT, min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_entries_survive_the_file_and_honest_ones_are_sound(
    plain: list[float | None], soft: list[float | None], rollouts: int
) -> None:
    # Every row has all of its rollouts.
    plain, soft = plain * rollouts, soft * rollouts
    made = entry("m", {("a", ASR): plain, ("b", ORR): soft, ("c", PASS1): plain}, rollouts=rollouts)
    data = entry_bytes(made)
    assert decode(data) == made
    assert entry_bytes(decode(data)) == data
    assert faults(check(data)) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.data())
def test_no_single_outcome_can_be_changed(place: int, data: st.DataObject) -> None:
    def change(fields: Fields) -> None:
        codes = series(fields)["codes"]
        others = [code for code in series(fields)["legend"] if code != codes[place]]
        code = data.draw(st.sampled_from(others))
        series(fields)["codes"] = codes[:place] + code + codes[place + 1 :]

    assert faults(check(edited(change)))


# -- beside a board and beside others


def test_another_protocol_is_no_error_but_has_an_exit_code_of_its_own() -> None:
    short = {"thinking": Thinking(budget=99)}
    of = board(column("a", judge="rules"), require={"thinking.budget": 16384})
    made = entry("m", {("a", ASR): hits(3, 20)}, **short)
    checked = check_data(entry_bytes(made), "file", of)
    assert faults(checked, "protocol") == [
        "stands in a table of its own: thinking.budget is 99, not 16384"
    ]
    assert checked.is_sound
    assert exit_code(checked.problems) == 4
    shown = check_data(entry_bytes(signed(replace(made, demonstration=True))), "file", of)
    assert faults(shown, "remark") == faults(checked, "protocol")
    assert exit_code(shown.problems) == 0


def test_a_judge_that_is_only_called_like_the_boards_is_another_protocol() -> None:
    other = JudgeIdentity(name="lenient", version="1")
    made = entry("m", {("a", ASR): hits(3, 20)}, judge=other)
    (said,) = faults(check(made), "protocol")
    assert "judge is lenient (called rules), not rules" in said


def together(*entries: Entry) -> list[Checked]:
    every = [check_data(entry_bytes(each), f"file {n}", BOARD) for n, each in enumerate(entries)]
    return check_together(BOARD, every)


def test_duplicates_are_found() -> None:
    rows = {("a", ASR): hits(3, 20)}
    again = signed(replace(entry("m", {("a", ASR): hits(2, 20)}), label="other", seed=7))
    first, second = together(entry("m", rows), again)
    assert first.problems == ()
    assert faults(second) == [
        "the same subject under the same protocol is in file 0: keep one of them"
    ]
    named = signed(replace(entry("n", rows), label="M "))
    assert faults(together(entry("m", rows), named)[1]) == [
        "the same label, 'M ', is in file 0: keep one of them"
    ]
    under = entry("m under psr", rows)
    under = signed(replace(under, model="m", identity={"model": "m"}, intervention="psr"))
    assert all(each.problems == () for each in together(entry("m", rows), under))


def test_a_copy_of_an_entry_under_another_name_is_found() -> None:
    theirs = entry("m", {("a", ASR): hits(3, 20)})
    mine = signed(replace(theirs, label="mine", model="mine", identity={"model": "mine"}))
    first, second = together(theirs, mine)
    assert first.problems == ()
    assert faults(second) == ["it is of the run that file 0 is of: keep one of them"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(model="So you take two of them and mix them"), "model holds a text"),
        (lambda f: f["identity"].update(x=SECRET * 4), "identity: 'x' holds a text"),
        (lambda f: f["execution"].update(cpu=SECRET * 4), "execution: 'cpu' holds a text"),
        (lambda f: score(f).update(undefined="why not"), "has an estimate and is undefined"),
        (lambda f: score(f)["estimate"].update(method=SECRET * 2), "interval's method holds a"),
        (lambda f: score(f).update(truncated_share=12.0), "truncated_share is 12.0"),
        (lambda f: score(f)["estimate"].update(high=1.5), "leaves [0, 1]"),
        (lambda f: f.update(date="2999-01-01"), "is yet to come"),
    ],
)
def test_no_field_holds_a_text_or_a_number_that_cannot_be(
    change: Callable[[Fields], None], said: str
) -> None:
    assert any(said in each for each in faults(check(edited(change))))


def test_a_folder_among_the_entries_hides_no_other_finding(tmp_path: Path) -> None:
    (tmp_path / "b.json").mkdir()
    (tmp_path / "a.json").write_bytes(entry_bytes(HONEST))
    found = check_files([tmp_path / "a.json", tmp_path / "b.json"], BOARD)
    assert [each.is_sound for each in found] == [True, False]
    assert faults(found[1]) == ["cannot read it: Is a directory"]


def test_a_further_number_does_not_make_another_entry_of_a_subject() -> None:
    one = entry("m", {("a", ASR): hits(3, 20)})
    more = entry("m", {("a", ASR): hits(2, 20), ("b", ORR): hits(1, 20)})
    said = "the same subject under the same protocol is in file 0: keep one of them"
    for board_of in (BOARD, None):
        every = [
            check_data(entry_bytes(each), f"file {n}", board_of)
            for n, each in enumerate((one, signed(replace(more, label="again"))))
        ]
        assert faults(check_together(board_of, every)[1]) == [said]
    other = signed(replace(entry("m", {("b", ORR): hits(1, 20)}), label="other"))
    assert all(each.problems == () for each in together(one, other))


def test_entries_of_other_prompts_are_said() -> None:
    fields = msgspec.json.decode(entry_bytes(entry("n", {("a", ASR): hits(0, 5)})))
    reprotocolled(fields, content_hash="e" * 64)
    fields["digest"] = digest_of(fields)
    own = decode(msgspec.json.encode(fields))
    first, second = together(entry("m", {("a", ASR): hits(3, 20)}), own)
    assert first.problems == ()
    assert faults(second, "remark") == [
        "a: its prompts (content_hash eeeeeeeeeeee) are not those of file 0: they stand in tables"
        " of their own"
    ]
    of = board(column("a", judge="rules", require={"content_hash": "c"}))
    (said,) = faults(check_data(entry_bytes(own), "file", of), "protocol")
    assert said == "stands in a table of its own: content_hash is eeeeeeeeeeee, not c"


def test_entries_of_other_weights_of_a_judge_are_said() -> None:
    one = entry("m", {("a", ASR): hits(3, 20)})
    own = JudgeIdentity(name="rules", version="1", identity={"commit": "mine"})
    other = entry("n", {("a", ASR): hits(0, 20)}, judge=own)
    assert any(
        "its judge is another (weights, prompt or version) than that of file 0" in said
        for said in faults(together(one, other)[1], "remark")
    )


def test_rows_left_out_under_the_same_protocol_are_found() -> None:
    whole, less = entry("m", {("a", ASR): hits(9, 20)}), entry("n", {("a", ASR): hits(8, 19)})
    assert check(less).is_sound
    first, second = together(whole, less)
    assert first.is_sound
    (said,) = faults(second)
    assert said.startswith("a asr_nonrefusal: its rows are not those of file 0: some were left out")


def test_files_are_checked_beside_the_boards_own(tmp_path: Path) -> None:
    files = []
    for n, name in enumerate(("m", "m", "n")):
        files.append(tmp_path / f"{n}.json")
        files[-1].write_bytes(entry_bytes(entry(name, {("a", ASR): hits(n, 20)})))
    (only,) = check_files(files[1:2], BOARD, beside=files)
    assert len(faults(only)) == 2
    assert only.name == str(files[1])
    with pytest.raises(ConfigError, match="cannot read"):
        check_files([tmp_path / "none.json"])


def test_a_board_with_a_bad_entry_is_not_ranked(tmp_path: Path) -> None:
    (tmp_path / "entries").mkdir()
    (tmp_path / "board.toml").write_text(
        'title = "B"\nrank_by = ["a"]\naxes = ["a", "a"]\n[[column]]\nkey = "a"\ntitle = "A"\n'
        'benchmark = "a"\nmetric = "asr_nonrefusal"\n',
        encoding="utf-8",
    )
    (tmp_path / "entries" / "m.json").write_bytes(entry_bytes(HONEST))
    assert load_standing(tmp_path).tables[0].rows[0].rank == 1
    bad = edited(lambda f: score(f)["estimate"].update(value=0.1))
    (tmp_path / "entries" / "m.json").write_bytes(bad)
    with pytest.raises(TsevalError, match="is not to be accepted: a asr_nonrefusal rules: "):
        load_standing(tmp_path)


def test_entries_stay_small_and_one_number_stands_on_a_line() -> None:
    rows = {("a", ASR): hits(3000, 10_000), ("b", ORR): hits(100, 10_000)}
    data = entry_bytes(entry("m", rows))
    assert len(data) < 600_000
    changed = entry_bytes(entry("m", rows | {("b", ORR): hits(101, 10_000)}))
    one, other = data.decode().splitlines(), changed.decode().splitlines()
    assert len(one) == len(other)
    # The score, its outcomes, the run's hash, and the digest.
    assert sum(a != b for a, b in zip(one, other, strict=True)) == 4


def test_a_file_that_is_no_entry_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"{}")
    with pytest.raises(ConfigError) as caught:
        read_entry(path)
    assert str(path) in caught.value.message
