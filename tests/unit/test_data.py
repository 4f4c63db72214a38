"""Rows: found, read, checked, hashed and ordered. The hub is played by a small local server."""

import hashlib
import json
import struct
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tseval.cards import BenchmarkCard, load_card
from tseval.data import Rows, cluster_of, content_hash, load_rows, prompt_key
from tseval.errors import ConfigError, DataError, TsevalError
from tseval.types import Sample

CARD = """\
name: toy
title: Toy
kind: harmful
summary: toy prompts
metrics: [asr_nonrefusal]
source: {hub: someone/toy, gated: true, access: https://example.org/toy}
expected_rows: 3
content_hash: 0a11111111111111111111111111111111111111111111111111111111111111
licence: MIT
paper: arXiv:0000.00000
"""
PROMPTS = ("How to a?", "How to b?", "How to c?")


def card(**changes: Any) -> BenchmarkCard:
    return replace(load_card(CARD, "toy.yaml"), **changes)


def yaml_card(text: str) -> BenchmarkCard:
    """The toy card with lines replaced or added."""
    lines = {line.split(":")[0]: line for line in (CARD + text).splitlines()}
    return load_card("\n".join(lines.values()), "toy.yaml")


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts(rows: Rows) -> list[str]:
    return [sample.prompt for sample in rows.samples]


def failure(
    toy: BenchmarkCard, *folders: Path, kind: type[TsevalError] = DataError, **options: Any
) -> TsevalError:
    with pytest.raises(kind) as caught:
        load_rows(toy, folders, **options)
    assert len(str(caught.value).splitlines()) <= 3
    assert caught.value.hint
    return caught.value


# -- finding files


def test_a_file_in_a_direct_sub_folder_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts" / "toy.jsonl", *({"prompt": p} for p in PROMPTS))
    rows = load_rows(card(), [tmp_path])
    assert rows.origin == str(path)
    assert sorted(prompts(rows)) == list(PROMPTS)


def test_a_file_two_folders_down_is_not_found(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "toy.jsonl", {"prompt": "x"})
    assert "is not in the local cache" in failure(card(), tmp_path).message


def test_two_matching_files_are_an_error_that_names_both(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "toy.jsonl", {"prompt": "x"})
    two = write(tmp_path / "two" / "toy.csv", {"prompt": "x"})
    error = failure(card(), tmp_path / "one", tmp_path / "two")
    assert error.message == f"benchmark 'toy' has two files: {one} and {two}"


def test_a_folder_named_twice_is_no_ambiguity(tmp_path: Path) -> None:
    write(tmp_path / "below" / "toy.jsonl", {"prompt": "x"})
    assert load_rows(card(), [tmp_path, tmp_path / "below"]).n_total == 1


def test_a_data_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    error = failure(card(), tmp_path / "gone", kind=ConfigError)
    assert error.message == (f"data folder '{tmp_path / 'gone'}' does not exist or is not a folder")


# -- reading files


def test_the_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    texts = ["plain", 'with "quotes", commas\nand a second line', "Ünïcode {braces}"]
    write(tmp_path / "jsonl" / "toy.jsonl", *({"prompt": t, "n": 1} for t in texts))
    for name in ("csv", "parquet"):
        (tmp_path / name).mkdir()
    table = arrow.table({"prompt": texts, "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "parquet" / "toy.parquet")
    quoted = "\r\n".join('"' + t.replace('"', '""') + '",1' for t in texts)
    (tmp_path / "csv" / "toy.csv").write_bytes(f"\ufeffprompt,n\r\n{quoted}\r\n".encode())
    found = [load_rows(card(), [tmp_path / name]) for name in ("jsonl", "csv", "parquet")]
    assert [rows.samples for rows in found[1:]] == [found[0].samples] * 2
    assert sorted(prompts(found[0])) == sorted(texts)


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "toy.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n\n  \n{"prompt": "y"}')
    assert load_rows(card(), [tmp_path]).n_total == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": ', "toy.jsonl, line 2: not JSON ("),
        (b'{"prompt": "\xff"}', "toy.jsonl, line 2: not JSON ('utf-8' codec"),
        (b'["x"]', "toy.jsonl, line 2: expected an object, found a list"),
        (b"[" * 100_000, "toy.jsonl, line 2: not JSON ("),
        (b"{}", "toy.jsonl, line 2, field 'prompt': expected a text, found none"),
        (b'{"prompt": 3}', "toy.jsonl, line 2, field 'prompt': expected a text, found a number"),
        (b'{"prompt": null}', "toy.jsonl, line 2, field 'prompt': expected a text, found null"),
        (
            b'{"prompt": ["a", "b"]}',
            "toy.jsonl, line 2, field 'prompt': expected a text, found a list",
        ),
        (b'{"prompt": " \\n"}', "toy.jsonl, line 2, field 'prompt': is empty"),
        (
            b'{"prompt": "\\ud800"}',
            "toy.jsonl, line 2, field 'prompt': holds half of a surrogate pair",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "toy.jsonl").write_bytes(b'{"prompt": "x"}\n' + line + b"\n")
    assert failure(card(), tmp_path).message.startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,n\nx,1\ny\n", "toy.csv, line 3: expected 2 values as in the header"),
        ("prompt,n\nx,1,2\n", "toy.csv, line 2: expected 2 values as in the header"),
        ('prompt\nx\n"y\n', "toy.csv, line 3: not CSV (unexpected end of data)"),
        (f"prompt\n{'y' * 200_000}\n", "toy.csv, line 2: not CSV (field larger than"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "toy.csv").write_text(text, encoding="utf-8")
    assert failure(card(), tmp_path).message.startswith(f"{tmp_path}/{message}")


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy.parquet").write_bytes(b"PAR1 this is not one")
    assert failure(card(), tmp_path).message.startswith(f"{tmp_path}/toy.parquet, row 1: not Par")


def test_a_file_without_the_prompt_column_names_it_and_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.jsonl", {"text": "x", "n": 1})
    assert failure(card(), tmp_path).message == (
        f"{path}, line 1: no field 'prompt' (found: text, n)"
    )


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.jsonl")
    assert failure(card(), tmp_path).message == f"benchmark 'toy': {path} has no rows"


# -- columns, filters, labels, groups


def test_a_file_with_the_hubs_column_names_is_understood(tmp_path: Path) -> None:
    toy = yaml_card("source: {hub: a/b, columns: {prompt: goal, tags: [kind]}}\n")
    write(tmp_path / "toy.jsonl", {"goal": ["x"], "kind": "odd"})
    (sample,) = load_rows(toy, [tmp_path]).samples
    assert (sample.prompt, sample.tags) == ("x", {"kind": "odd"})


def test_a_context_is_put_before_the_prompt_once_and_may_hold_braces(tmp_path: Path) -> None:
    toy = yaml_card(
        "source: {hub: a/b, columns: {prompt: goal, context: before}}\nlocal: []\n"
        "expected_rows: 2\n"
    )
    write(
        tmp_path / "toy.jsonl",
        {"goal": "do {prompt}", "before": " given {context} "},
        {"goal": "do it", "before": None},
    )
    assert sorted(prompts(load_rows(toy, [tmp_path]))) == [
        "do it",
        "given {context}\n\n---\n\ndo {prompt}",
    ]


def test_rows_that_the_filter_does_not_name_are_left_out(tmp_path: Path) -> None:
    toy = yaml_card("where: {style: [base, plain]}\n")
    write(
        tmp_path / "toy.jsonl",
        {"prompt": "a", "style": "base"},
        {"prompt": "b", "style": "ascii"},
        {"prompt": "c", "style": "plain"},
    )
    assert sorted(prompts(load_rows(toy, [tmp_path]))) == ["a", "c"]


def test_a_file_without_the_filters_column_is_taken_as_filtered(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", {"prompt": "a"})
    assert load_rows(yaml_card("where: {style: base}\n"), [tmp_path]).n_total == 1


def test_a_filter_that_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.jsonl", {"prompt": "a", "style": "odd"})
    error = failure(yaml_card("where: {style: base}\n"), tmp_path)
    assert error.message == f"benchmark 'toy': {path} has no rows with style = base"


MIXED = (
    "kind: mixed\nsource: {hub: a/b, columns: {label: label}}\nlocal: [{label: label}]\n"
    "labels: {safe: benign, unsafe: harmful}\nsuite_average: [benign]\n"
)


def test_labels_say_which_rows_are_harmful(tmp_path: Path) -> None:
    write(
        tmp_path / "toy.jsonl",
        {"prompt": "a", "label": "safe"},
        {"prompt": "b", "label": "unsafe"},
    )
    found = {s.prompt: s.harmful for s in load_rows(yaml_card(MIXED), [tmp_path]).samples}
    assert found == {"a": False, "b": True}


def test_an_unknown_label_is_an_error_not_a_class(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.jsonl", {"prompt": "a", "label": "Safe"})
    error = failure(yaml_card(MIXED), tmp_path)
    assert error.message == f"{path}, line 1, field 'label': unknown label 'Safe'"
    assert error.hint == "expected safe or unsafe"


def test_a_row_of_an_unknown_group_is_an_error(tmp_path: Path) -> None:
    toy = yaml_card("groups: [easy, hard]\nlocal: [{group: part}]\n")
    path = write(tmp_path / "toy.jsonl", {"prompt": "a", "part": "odd"})
    assert failure(toy, tmp_path).message == (
        f"{path}, line 1, field 'part': 'odd' is not a group of 'toy'"
    )


# -- ids, order, subsets


def test_ids_are_the_same_whatever_the_file_calls_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "a" / "toy.jsonl", *({"prompt": p, "id": f"a{p}"} for p in PROMPTS))
    write(tmp_path / "b" / "toy.jsonl", *({"prompt": f" {p}\n"} for p in reversed(PROMPTS)))
    one, two = (load_rows(card(), [tmp_path / name]) for name in "ab")
    assert one.samples == two.samples
    assert one.content_hash == two.content_hash


def test_a_prompt_that_is_there_twice_counts_twice_under_two_ids(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", {"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"})
    rows = load_rows(card(), [tmp_path])
    first, second = sorted(s.id for s in rows.samples if s.prompt == "x")
    assert rows.n_total == 3
    assert second == f"{first}-2"
    assert len({cluster_of(s) for s in rows.samples}) == 2


def test_equal_ids_in_an_id_column_are_an_error_that_names_both_lines(tmp_path: Path) -> None:
    toy = yaml_card("source: {hub: a/b, columns: {id: id}}\nlocal: []\n")
    path = write(tmp_path / "toy.jsonl", {"prompt": "x", "id": 7}, {"prompt": "y", "id": "7"})
    assert failure(toy, tmp_path).message == (
        f"{path}, line 2, field 'id': '7' is also the id of {path}, line 1"
    )


def test_a_smaller_limit_takes_a_subset_and_the_file_order_does_not_matter(tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(50)]
    write(tmp_path / "a" / "toy.jsonl", *({"prompt": t} for t in texts))
    write(tmp_path / "b" / "toy.jsonl", *({"prompt": t} for t in sorted(texts, reverse=True)))
    ten = prompts(load_rows(card(), [tmp_path / "a"], limit=10))
    twenty = load_rows(card(), [tmp_path / "b"], limit=20)
    assert len(ten) == 10
    assert set(ten) < set(prompts(twenty))
    assert twenty.partial
    assert twenty.n_total == 50
    assert ten != prompts(load_rows(card(), [tmp_path / "a"], limit=10, subset_seed=1))
    assert not load_rows(card(), [tmp_path / "a"], limit=50).partial


def test_a_limit_does_not_change_the_content_hash(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", *({"prompt": p} for p in PROMPTS))
    whole, part = (load_rows(card(), [tmp_path], limit=n) for n in (None, 1))
    assert whole.content_hash == part.content_hash


def test_a_limit_below_one_is_an_error(tmp_path: Path) -> None:
    error = failure(card(), tmp_path, kind=ConfigError, limit=0)
    assert error.message == "limit is 0, expected at least 1"


# -- hashes


def test_the_content_hash_has_the_documented_bytes() -> None:
    samples = [
        Sample(id="1", prompt="bé", harmful=False),
        Sample(id="2", prompt="a", harmful=True, group="g"),
    ]
    by_hand = hashlib.sha256()
    for text in ("benign", "", "bé", "harmful", "g", "a"):
        by_hand.update(struct.pack(">Q", len(text.encode())) + text.encode())
    assert content_hash(samples) == by_hand.hexdigest()


def test_a_prompt_is_asked_and_hashed_in_one_unicode_form_without_outer_space(
    tmp_path: Path,
) -> None:
    decomposed = unicodedata.normalize("NFD", "café?")
    write(tmp_path / "a" / "toy.jsonl", {"prompt": f"\t{decomposed} \n"})
    write(tmp_path / "b" / "toy.jsonl", {"prompt": "café?"})
    one, two = (load_rows(card(), [tmp_path / name]) for name in "ab")
    assert prompts(one) == ["café?"]
    assert one.content_hash == two.content_hash


def test_a_moved_boundary_between_two_prompts_changes_the_hash() -> None:
    one = [Sample(id="1", prompt="ab"), Sample(id="2", prompt="c")]
    two = [Sample(id="1", prompt="a"), Sample(id="2", prompt="bc")]
    assert content_hash(one) != content_hash(two)


def test_rows_that_are_not_those_of_the_card_are_a_warning_not_an_error(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", *({"prompt": p} for p in PROMPTS[:2]))
    rows = load_rows(card(), [tmp_path])
    count, changed = rows.warnings
    assert count == "'toy' has 2 rows, its card expects 3"
    assert f"(content hash {rows.content_hash[:12]}, expected 0a1111111111)" in changed
    assert rows.content_hash != card().content_hash


def test_rows_that_are_those_of_the_card_give_no_warning(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", *({"prompt": p} for p in PROMPTS))
    seen = load_rows(card(), [tmp_path]).content_hash
    assert load_rows(card(content_hash=seen), [tmp_path]).warnings == ()


def test_a_card_without_a_hash_says_that_nothing_was_compared(tmp_path: Path) -> None:
    write(tmp_path / "toy.jsonl", *({"prompt": p} for p in PROMPTS))
    (warning,) = load_rows(card(content_hash="", note="unseen"), [tmp_path]).warnings
    assert "nothing to compare their content hash" in warning


def test_prompts_that_differ_in_case_and_space_share_a_key() -> None:
    assert prompt_key(" Straße  zum\nMEER ") == prompt_key("STRASSE zum meer")
    assert prompt_key("a b") != prompt_key("ab")


def test_a_cluster_column_makes_the_cluster(tmp_path: Path) -> None:
    toy = yaml_card("local: [{cluster: objective}]\n")
    write(
        tmp_path / "toy.jsonl",
        {"prompt": "a", "objective": "same"},
        {"prompt": "b", "objective": "same"},
    )
    assert {cluster_of(s) for s in load_rows(toy, [tmp_path]).samples} == {"same"}


def test_reading_many_rows_takes_less_than_2_kb_each(tmp_path: Path) -> None:
    n, text = 4_000, "long " * 100
    write(tmp_path / "toy.jsonl", *({"prompt": f"{text}{i}", "k": "v"} for i in range(n)))
    toy = yaml_card("local: [{tags: [k]}]\n")
    tracemalloc.start()
    try:
        rows = load_rows(toy, [tmp_path])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows.n_total == n
    assert peak / n < 2000


# -- the hub


class Hub:
    """A server that plays the hub's access check and one public file."""

    def __init__(self) -> None:
        self.status, self.code, self.tokens = 200, "", []  # type: tuple[int, str, list[str]]
        self.file = json.dumps([{"prompt": p, "objective": p[-2]} for p in PROMPTS]).encode()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(b"")

            def do_GET(self) -> None:
                hub.tokens.append(self.headers.get("Authorization", ""))
                self.answer(hub.file if self.path.endswith(".json") else b"{}")

            def answer(self, body: bytes) -> None:
                self.send_response(hub.status)
                self.send_header("Content-Length", str(len(body) or len(hub.file)))
                if hub.code:
                    self.send_header("X-Error-Code", hub.code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, played; caches of their own; the switches that conftest sets turned back."""
    import datasets
    from huggingface_hub import constants

    hub = Hub()
    for module in (datasets.config, constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


WAYS_OUT = (
    "ask for access at https://example.org/toy and set HF_TOKEN; or put toy.jsonl|csv|parquet "
    "into a folder and name it with --data-dir"
)


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")])
def test_a_gated_dataset_names_itself_the_page_the_token_and_the_data_dir(
    online: Hub, status: int, code: str
) -> None:
    online.status, online.code = status, code
    error = failure(card())
    assert error.message == (
        "dataset 'someone/toy' (benchmark 'toy') is gated, and this account has no access to it"
    )
    assert error.hint == WAYS_OUT
    assert online.tokens == ["Bearer hf_test"]


def test_an_open_dataset_is_not_called_gated_because_a_token_is_refused(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.status = 401
    write(tmp_path / "someone" / "toy" / "train.jsonl", {"prompt": "a"})
    monkeypatch.chdir(tmp_path)
    assert prompts(load_rows(yaml_card("source: {hub: someone/toy}\n"))) == ["a"]


def test_a_dataset_that_does_not_exist_is_called_missing(online: Hub) -> None:
    online.status, online.code = 404, "RepoNotFound"
    toy = yaml_card("source: {hub: someone/toy}\n")
    assert failure(toy).message == (
        f"dataset 'someone/toy' (benchmark 'toy') does not exist on {online.address}, or is private"
    )


def test_without_network_the_error_comes_at_once_and_names_all_ways_out(
    online: Hub, tmp_path: Path
) -> None:
    online.server.shutdown()
    online.server.server_close()
    start = time.perf_counter()
    error = failure(card(), tmp_path)
    # Asked again and again, it takes minutes.
    assert time.perf_counter() - start < 30
    assert error.message.startswith(
        "dataset 'someone/toy' (benchmark 'toy') is not in the local cache, and no answer from "
        f"{online.address} ("
    )
    assert error.hint == f"{WAYS_OUT} (not found in {tmp_path})"


def test_offline_by_wish_asks_nobody(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failure(card())
    assert error.message == (
        "dataset 'someone/toy' (benchmark 'toy') is not in the local cache, and HF_HUB_OFFLINE "
        "is set"
    )
    assert online.tokens == []


def test_failed_looks_into_the_cache_in_threads_leave_the_hub_switched_on(online: Hub) -> None:
    import datasets
    from huggingface_hub import constants

    online.server.shutdown()
    online.server.server_close()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(failure, card()) for _ in range(4)]:
            done.result()
    assert (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)


def test_the_parts_of_a_dataset_are_read_into_their_groups(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of the dataset's name is read by `datasets` like the hub's repository.
    folder = tmp_path / "someone" / "toy"
    write(folder / "easy.jsonl", {"goal": "a"}, {"goal": "b"})
    write(folder / "hard.jsonl", {"goal": "c"})
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.jsonl\n"
        for name in ("easy", "hard")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    toy = yaml_card(
        "groups: [simple, difficult]\n"
        "source: {hub: someone/toy, columns: {prompt: goal}, parts: ["
        "{config: easy, split: test, group: simple}, "
        "{config: hard, split: test, group: difficult}]}\n"
    )
    rows = load_rows(toy)
    assert {s.prompt: s.group for s in rows.samples} == {
        "a": "simple",
        "b": "simple",
        "c": "difficult",
    }
    assert rows.origin == "someone/toy"


def test_files_without_a_header_keep_their_first_row(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "someone" / "toy"
    folder.mkdir(parents=True)
    for name, first in (("one", "a, quoted"), ("two", "c")):
        (folder / f"{name}.csv").write_text(f'"{first}"\n{first[0]}2\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    toy = yaml_card(
        "expected_rows: 4\nsource: {hub: someone/toy, parts: [{files: [one.csv, two.csv]}], "
        "options: {header: null, names: [prompt]}}\n"
    )
    assert sorted(prompts(load_rows(toy))) == ["a, quoted", "a2", "c", "c2"]


def test_tab_separated_files_keep_the_text_na(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "someone" / "toy"
    folder.mkdir(parents=True)
    (folder / "eval.tsv").write_text("prompt\tkind\nNA\tbad\nnull\tbad\n", encoding="utf-8")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: eval\n  data_files: eval.tsv\n---\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    toy = yaml_card(
        "source: {hub: someone/toy, parts: [{config: eval}], "
        'options: {delimiter: "\\t", keep_default_na: false}}\nwhere: {kind: bad}\n'
    )
    assert sorted(prompts(load_rows(toy))) == ["NA", "null"]


def test_a_hub_dataset_without_the_filters_column_is_an_error(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "someone" / "toy" / "train.jsonl", {"prompt": "a"})
    monkeypatch.chdir(tmp_path)
    error = failure(yaml_card("where: {style: base}\n"))
    assert error.message == (
        "someone/toy, train row 1: no field 'style', which says what rows to keep"
    )


def test_a_dataset_without_the_cards_split_says_what_is_wrong(
    online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "someone" / "toy" / "train.jsonl", {"prompt": "a"})
    monkeypatch.chdir(tmp_path)
    error = failure(yaml_card("source: {hub: someone/toy, parts: [{split: gone}]}\n"))
    assert error.message.startswith(
        "dataset 'someone/toy' (benchmark 'toy') cannot be read as its card says: "
    )
    assert "gone" in error.message


def test_rows_at_an_address_are_read_without_sending_the_token(online: Hub) -> None:
    toy = yaml_card(
        f"source: {{url: '{online.address}/toy.json', columns: {{cluster: objective}}}}\n"
    )
    rows = load_rows(toy)
    assert sorted(prompts(rows)) == list(PROMPTS)
    assert {cluster_of(s) for s in rows.samples} == {"a", "b", "c"}
    assert set(online.tokens) == {""}
