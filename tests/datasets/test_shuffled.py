"""Epochs dealt out to ranks and workers: every sample once, the same batches for all, to be gone on with anywhere."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, Shelf, digits, double, is_even
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import atdata
from atdata.datasets.order import Order, order_key
from atdata.datasets.share import Deal, Share
from atdata.errors import StateError

N = 47


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """47 digits in shards of 10, in every form they can be read from."""
    root = tmp_path_factory.mktemp("kinds")
    store = atdata.LocalDiskStore(root)
    written = atdata.Dataset.from_samples(digits(N), Digit)
    quick = store.write_shards(written, prefix="quick", maxcount=10)
    bare = store.write_shards(written, prefix="bare", maxcount=10, manifest=False)
    loose = [str(root / "loose" / Path(url).name) for url in bare]  # no record: nothing is known of them
    packed = [f"{url}.gz" for url in loose]
    (root / "loose").mkdir()
    for url, lone in zip(bare, loose, strict=True):
        Path(lone).write_bytes(Path(url).read_bytes())
        Path(f"{lone}.gz").write_bytes(gzip.compress(Path(url).read_bytes()))
    return {
        "manifest": atdata.Dataset[Digit](quick),
        "bare": atdata.Dataset[Digit](bare),
        "mixed": atdata.Dataset[Digit]([(quick, loose)[i % 2][i] for i in range(len(quick))]),
        "loose": atdata.Dataset[Digit](loose),
        "compressed": atdata.Dataset[Digit](packed),
        "source": atdata.Dataset[Digit](Shelf({Path(url).name: Path(url).read_bytes() for url in bare})),
        "memory": written,
    }


KINDS = ["manifest", "bare", "mixed", "loose", "compressed", "source", "memory"]
STEPS: dict[str, Callable[[Any], Any]] = {
    "all": lambda ds: ds,
    "take": lambda ds: ds.take(33),
    "numbers": lambda ds: ds.take([40, 3, 3, 11, 29, -1, 0, 17, 5, 6, 7, 8]),
    "filter": lambda ds: ds.filter(is_even),
    "map": lambda ds: ds.map(double),
    "fields": lambda ds: ds.select_fields("label"),
    "many": lambda ds: ds.take(40).map(double).filter(lambda s: s.label % 3).take(17).take([2, 1, -1, 8, 16, 3]),
    "none": lambda ds: ds.filter(lambda s: False),
}


@contextmanager
def worker(number: int, count: int) -> Iterator[None]:
    """As if this was a worker of a torch DataLoader: what `get_worker_info` says is all that is looked at."""
    info = types.SimpleNamespace(id=number, num_workers=count)
    before = sys.modules.get("torch.utils.data")
    sys.modules["torch.utils.data"] = types.SimpleNamespace(get_worker_info=lambda: info)  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch.utils.data"]
        if before is not None:
            sys.modules["torch.utils.data"] = before


def loader(ds: Any, shuffle: bool, size: int | None, **options: Any) -> Any:
    if not shuffle:
        for name in ("seed", "epoch", "block", "window", "lanes"):
            options.pop(name, None)
        return ds.ordered(size, **options)
    return ds.shuffled(size, **options)


def content(item: Any) -> Any:
    return [s.label for s in item] if isinstance(item, atdata.SampleBatch) else item.label


def shares(ds: Any, ranks: int, workers: int, state: Any = None, limit: int | None = None, **options: Any) -> Any:
    """What each worker of each rank gives, and its state thereafter."""
    found: dict[tuple[int, int], tuple[list[Any], Any]] = {}
    for rank, number in itertools.product(range(ranks), range(workers)):
        one = loader(ds, rank=rank, world_size=ranks, **options)
        if state is not None:
            one.load_state_dict(state)
        with worker(number, workers):
            items = list(itertools.islice(one, limit))
            found[rank, number] = items, one.state_dict()
    return found


def together(found: Any, ranks: int, workers: int) -> list[Any]:
    """The batches of all shares, in the order of the epoch."""
    turns = [
        found[rank, number][0][turn : turn + 1]
        for turn in range(max(len(items) for items, _ in found.values()))
        for number in range(workers)
        for rank in range(ranks)
    ]
    return list(itertools.chain.from_iterable(turns))


def steps_of(shape: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("block", "window", "lanes"), shape, strict=True))


EPOCHS = {
    "kind": st.sampled_from(KINDS),
    "step": st.sampled_from(sorted(STEPS)),
    "size": st.none() | st.integers(1, 20),
    "shuffle": st.booleans(),
    "shape": st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3)),
    "seed": st.integers(0, 5),
    "ranks": st.integers(1, 4),
    "workers": st.integers(1, 3),
}
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


# -- exactly once --------------------------------------------------------------------------------------------


@given(**EPOCHS)
@RELAXED
def test_all_shares_together_give_the_epoch_whatever_their_number(
    kinds: dict[str, Any], kind: str, step: str, size: int | None, shuffle: bool, shape: Any, seed: int, ranks: int,
    workers: int,
) -> None:  # fmt: skip
    ds = STEPS[step](kinds[kind])
    options = {"size": size, "shuffle": shuffle, "seed": seed, **steps_of(shape)}
    alone = [content(item) for item in loader(ds, **options)]
    flat = alone if size is None else list(itertools.chain.from_iterable(alone))
    expected = [s.label for s in ds]
    assert sorted(flat) == sorted(expected)
    assert shuffle or flat == expected
    assert size is None or all(len(batch) == size for batch in alone[:-1])
    found = shares(ds, ranks, workers, **options)
    assert [content(item) for item in together(found, ranks, workers)] == alone


@given(**EPOCHS, remainder=st.sampled_from(["drop", "pad"]))
@RELAXED
def test_remainders(
    kinds: dict[str, Any], kind: str, step: str, size: int | None, shuffle: bool, shape: Any, seed: int, ranks: int,
    workers: int, remainder: str,
) -> None:  # fmt: skip
    ds = STEPS[step](kinds[kind])
    size = size or 1
    options = {"size": size, "shuffle": shuffle, "seed": seed, **steps_of(shape)}
    alone = [content(item) for item in loader(ds, **options)]
    found = shares(ds, ranks, workers, remainder=remainder, **options)
    batches = together(found, ranks, workers)
    per_rank = [sum(len(found[r, w][0]) for w in range(workers)) for r in range(ranks)]
    assert len(set(per_rank)) == 1
    assert all(len(batch) == size for batch in batches)
    whole = sum(len(batch) == size for batch in alone)
    if remainder == "drop":
        assert [content(batch) for batch in batches] == alone[: whole // ranks * ranks]
        return
    assert per_rank[0] == -(-len(alone) // ranks)
    real = [[label for label, valid in zip(content(b), b.valid, strict=True) if valid] for b in batches]
    assert [batch for batch in real if batch] == alone
    padding = [label for b in batches for label, valid in zip(content(b), b.valid, strict=True) if not valid]
    assert padding == list(itertools.islice(itertools.cycle(alone[0] if alone else []), len(padding)))
    assert all(b.valid.dtype == bool and b.valid.shape == (size,) for b in batches)


@pytest.mark.parametrize("kind", ["manifest", "bare", "loose", "memory"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 1), (4, 2, 3)])
def test_the_order_is_that_of_the_pure_function(kinds: dict[str, Any], kind: str, shape: tuple[int, int, int]) -> None:
    ds = kinds[kind]
    for seed, epoch in ((0, 0), (7, 0), (7, 1)):
        order = Order(N, order_key(ds.digest, seed, epoch), *shape, batch=4)
        found = ds.shuffled(4, seed=seed, epoch=epoch, **steps_of(shape))
        assert [label for batch in found for label in batch.label] == order.numbers(np.arange(N)).tolist()
    if ds.cid is not None:
        assert ds.digest == ds.cid


def test_by_default_small_datasets_are_shuffled_perfectly(kinds: dict[str, Any]) -> None:
    order = Order(N, order_key(kinds["manifest"].cid, 0, 0))
    assert [s.label for s in kinds["manifest"].shuffled()] == order.numbers(np.arange(N)).tolist()


def test_the_same_order_wherever_the_shards_lie(kinds: dict[str, Any], tmp_path: Path) -> None:
    ds = kinds["manifest"]
    for url in ds.list_shards():
        for name in (url, url.replace(".tar", ".manifest.parquet")):
            (tmp_path / Path(name).name).write_bytes(Path(name).read_bytes())
    record = Path(ds.list_shards()[0]).parent / "atdata.json"
    (tmp_path / "atdata.json").write_bytes(record.read_bytes())
    copy = atdata.Dataset[Digit](tmp_path)
    assert [b.label for b in copy.shuffled(7)] == [b.label for b in ds.shuffled(7)]
    one = ds.shuffled(7)
    next(iter(one))
    other = copy.shuffled(7)
    other.load_state_dict(one.state_dict())
    assert [b.label for b in other] == [b.label for b in ds.shuffled(7)][1:]


def test_more_workers_than_samples(kinds: dict[str, Any]) -> None:
    found = shares(kinds["manifest"].take(3), 4, 5, size=2, shuffle=True)
    assert sum(len(items) for items, _ in found.values()) == 2
    assert sorted(s.label for items, _ in found.values() for batch in items for s in batch) == [0, 1, 2]


def test_a_rank_with_nothing(kinds: dict[str, Any]) -> None:
    for kind in KINDS:
        one = kinds[kind].take(3).shuffled(4, rank=1, world_size=2)
        assert list(one) == []
        assert list(one) == []
    assert len(kinds["manifest"].take(3).shuffled(4, rank=1, world_size=2)) == 0


def test_columns_are_the_same_as_those_of_single_samples(kinds: dict[str, Any]) -> None:
    for kind in KINDS:
        batches = list(kinds[kind].shuffled(9, seed=4, block=3, window=4))
        for batch in batches:
            assert batch.image.shape == (len(batch), 4, 3)
            assert batch.image.flags.writeable
            assert batch.image.tolist() == [s.image.tolist() for s in batch.samples]
            assert batch.note == [s.note for s in batch.samples]
            assert batch.valid.all()


# -- how many ------------------------------------------------------------------------------------------------


@given(**EPOCHS, remainder=st.sampled_from(["uneven", "drop", "pad"]))
@RELAXED
def test_the_length_is_the_number_of_batches_of_the_share(
    kinds: dict[str, Any], kind: str, step: str, size: int | None, shuffle: bool, shape: Any, seed: int, ranks: int,
    workers: int, remainder: str,
) -> None:  # fmt: skip
    ds = STEPS[step](kinds[kind])
    one = loader(ds, shuffle, size or 2, seed=seed, remainder=remainder, rank=0, world_size=ranks, **steps_of(shape))
    with worker(workers - 1, workers):
        try:
            length = len(one)
        except TypeError as error:
            assert "not known" in str(error)  # noqa: PT017
            assert step in ("filter", "many", "none") or kind in ("source",)
        else:
            assert length == len(list(one))


def test_a_shuffle_finds_out_what_a_filter_leaves(kinds: dict[str, Any]) -> None:
    asked = []

    def even(sample: Digit) -> bool:
        asked.append(sample.label)
        return sample.label % 2 == 0

    one = kinds["manifest"].filter(even).shuffled(5)
    assert len(one) == 5
    assert sorted(asked) == list(range(N))
    assert sorted(s.label for batch in one for s in batch) == list(range(0, N, 2))
    one.set_epoch(1)
    assert all(len(batch) == 5 for batch in itertools.islice(one, 4))
    assert len(asked) == N


# -- going on ------------------------------------------------------------------------------------------------


@given(**EPOCHS, later=st.tuples(st.integers(1, 4), st.integers(1, 3)), done=st.integers(0, 8))
@RELAXED
def test_an_epoch_goes_on_on_any_number_of_ranks_and_workers(
    kinds: dict[str, Any], kind: str, step: str, size: int | None, shuffle: bool, shape: Any, seed: int, ranks: int,
    workers: int, later: tuple[int, int], done: int,
) -> None:  # fmt: skip
    ds = STEPS[step](kinds[kind])
    options = {"size": size, "shuffle": shuffle, "seed": seed, "epoch": 2, **steps_of(shape)}
    alone = [content(item) for item in loader(ds, **options)]
    found = shares(ds, ranks, workers, limit=done, **options)
    states = [state for items, state in found.values() if len(items) == done]
    if not states:
        return
    for one in states:  # of a stream, only who has seen its end knows where that is
        one["position"] = min(one["position"], len(list(ds)))
    assert all(state == states[0] for state in states)
    state = json.loads(json.dumps(states[0]))
    before = together(found, ranks, workers)
    again = shares(ds, *later, state=state, **options)
    after = together(again, *later)
    assert [content(item) for item in (*before, *after)] == alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_resumed_at_every_position(kinds: dict[str, Any], kind: str, shuffle: bool) -> None:
    options = {"size": 5, "shuffle": shuffle, "seed": 1, "block": 4, "window": 3}
    one = loader(kinds[kind], **options)
    whole = []
    states = [one.state_dict()]
    for batch in one:
        whole.append(content(batch))
        states.append(one.state_dict())
    assert [state["position"] for state in states] == [*range(0, N, 5), N]
    for done, state in enumerate(states):
        again = loader(kinds[kind], **options)
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert [content(batch) for batch in again] == whole[done:]
        assert [content(batch) for batch in again] == whole  # and from then on whole epochs


def test_with_one_lane_the_batch_size_may_change(kinds: dict[str, Any]) -> None:
    one = kinds["manifest"].shuffled(10, block=4, window=3)
    iterator = iter(one)
    first = [s.label for _ in range(2) for s in next(iterator)]
    other = kinds["manifest"].shuffled(3, block=4, window=3)
    other.load_state_dict(one.state_dict())
    rest = [s.label for batch in other for s in batch]
    assert first + rest == [s.label for s in kinds["manifest"].shuffled(block=4, window=3)]


def test_a_loader_takes_its_position_along(kinds: dict[str, Any]) -> None:
    for kind in KINDS:
        one = kinds[kind].shuffled(4, seed=3)
        iterator = iter(one)
        first = [content(next(iterator)) for _ in range(3)]
        other = pickle.loads(pickle.dumps(one))
        iterator.close()
        assert other.state_dict() == one.state_dict()
        rest = [content(batch) for batch in other]
        assert first + rest == [content(batch) for batch in one]
        assert [content(batch) for batch in pickle.loads(pickle.dumps(other))] == first + rest


def test_what_a_filter_leaves_travels_along(kinds: dict[str, Any]) -> None:
    one = kinds["manifest"].filter(is_even).shuffled(4)
    len(one)
    other = pickle.loads(pickle.dumps(one))
    assert other.dataset.known_length() == 24


def test_epochs(kinds: dict[str, Any]) -> None:
    one = kinds["manifest"].shuffled(4, epoch=1)
    first = [content(batch) for batch in one]
    assert [content(batch) for batch in one] == first
    one.set_epoch(2)
    assert one.epoch == 2
    second = [content(batch) for batch in one]
    assert second != first
    iterator = iter(one)
    next(iterator)
    state = one.state_dict()
    one = kinds["manifest"].shuffled(4)
    one.load_state_dict(state)
    one.set_epoch(2)  # as a loop over epochs does, which begins where the state says
    assert [content(batch) for batch in one] == second[1:]
    one.set_epoch(1)
    assert [content(batch) for batch in one] == first
    with pytest.raises(ValueError, match="-1"):
        one.set_epoch(-1)


def test_the_state_after_some_batches_can_be_computed(kinds: dict[str, Any]) -> None:
    for ranks in (1, 3):
        for remainder in ("uneven", "drop", "pad"):
            one = kinds["manifest"].shuffled(4, rank=0, world_size=ranks, remainder=remainder)
            iterator = iter(one)
            assert one.state_after(0)["position"] == 0
            for done in range(1, len(one) + 1):
                next(iterator)
                assert one.state_after(done) == one.state_dict()
            again = kinds["manifest"].shuffled(4, rank=0, world_size=ranks, remainder=remainder)
            again.load_state_dict(one.state_after(1))
            assert again.state_after(1) == one.state_after(2)


def test_states_are_small(kinds: dict[str, Any]) -> None:
    one = kinds["manifest"].shuffled(64, seed=2**63, epoch=10**6, lanes=64, remainder="uneven")
    state = one.state_dict() | {"position": 10**12}
    assert len(json.dumps(state)) <= 300


def test_a_killed_process_is_gone_on_with_in_another(kinds: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(kinds["manifest"].list_shards()[0]).parent
    program = f"""
import json, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dataset_samples import Digit, is_even
import atdata
loader = atdata.Dataset[Digit]({str(folder)!r}).filter(is_even).shuffled(3, seed=5, block=2, window=3)
state = {str(tmp_path / "state.json")!r}
if os.path.exists(state):
    loader.load_state_dict(json.load(open(state)))
for number, batch in enumerate(loader):
    print(*batch.label, flush=True)
    with open(state + ".new", "w") as file:
        json.dump(loader.state_dict(), file)
    os.replace(state + ".new", state)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    seen: list[int] = []
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        seen += map(int, done.stdout.split())
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert seen == [s.label for s in kinds["manifest"].filter(is_even).shuffled(seed=5, block=2, window=3)]


# -- states of something else --------------------------------------------------------------------------------


@atdata.packable
class Other:
    image: np.ndarray[Any, Any]
    label: int
    note: str | None = None


def _differs(kinds: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    ds = kinds["manifest"]
    options: dict[str, Any] = {"seed": 1, "block": 4, "window": 3}
    return {
        "dataset": (kinds["bare"].take(40).map(double).shuffled(4, **options | {"seed": 1}), "of another dataset"),
        "loose": (kinds["loose"].take(40).map(double).shuffled(4, **options), "of another dataset"),
        "type": (
            atdata.Dataset[Other](ds.list_shards()).take(40).map(double).shuffled(4, **options),
            "another class or other fields",
        ),
        "fields": (ds.select_fields("image", "label").take(40).map(double).shuffled(4, **options), "other fields"),
        "take": (ds.take(39).map(double).shuffled(4, **options), "of other steps"),
        "map": (ds.take(40).map(lambda s: s).shuffled(4, **options), "of other steps"),
        "turned round": (ds.map(double).take(40).shuffled(4, **options), "of other steps"),
        "filter": (ds.take(40).map(double).filter(is_even).shuffled(4, **options), "of other steps"),
        "ordered": (ds.take(40).map(double).ordered(4), "of another order .*; it is of another seed"),
        "seed": (ds.take(40).map(double).shuffled(4, **options | {"seed": 2}), r"of another seed \(seed 1, here 2\)"),
        "block": (ds.take(40).map(double).shuffled(4, **options | {"block": 5}), r"order \[4, 3\], here \[5, 3\]"),
        "window": (ds.take(40).map(double).shuffled(4, **options | {"window": 2}), "of another order"),
        "lanes": (ds.take(40).map(double).shuffled(4, **options, lanes=2), r"here \[4, 3, 2, 4\]"),
        "remainder": (ds.take(40).map(double).shuffled(4, **options, remainder="drop"), "with another remainder"),
    }


def test_states_of_something_else_are_refused_by_name(kinds: dict[str, Any]) -> None:
    mine = kinds["manifest"].take(40).map(double).shuffled(4, seed=1, block=4, window=3)
    next(iter(mine))
    state = mine.state_dict()
    for name, (other, message) in _differs(kinds).items():
        if name == "dataset":
            continue  # the same content: see below
        before = other.state_dict()
        try:
            other.load_state_dict(state)
        except StateError as error:
            assert re.search(message, str(error)), name  # noqa: PT017
        else:
            raise AssertionError(name)
        assert other.state_dict() == before, name
    same = kinds["bare"].take(40).map(double).shuffled(4, seed=1, block=4, window=3)
    same.load_state_dict(state)
    assert [content(b) for b in same] == [content(b) for b in mine][1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atdata": 2}, "format 2"),
        ({"position": 48}, "position is 48, and there are 47"),
        ({"position": -1}, "position is -1"),
        ({"position": 1.5}, "position is 1.5"),
        ({"position": True}, "position is True"),
        ({"epoch": "0"}, "epoch is '0'"),
        ({"steps": None}, "other steps"),
    ],
)
def test_states_that_make_no_sense(kinds: dict[str, Any], change: dict[str, Any], message: str) -> None:
    one = kinds["manifest"].shuffled(4)
    with pytest.raises(StateError, match=message):
        one.load_state_dict(one.state_dict() | change)


def test_what_is_no_state(kinds: dict[str, Any]) -> None:
    one = kinds["manifest"].shuffled(4)
    for wrong in ({}, None, [], "state", {"epoch": 1}):
        with pytest.raises(StateError, match="no state of a loader"):
            one.load_state_dict(wrong)
    state = one.state_dict()
    del state["seed"], state["position"]
    with pytest.raises(StateError, match="has no seed, position"):
        one.load_state_dict(state)


# -- which share this is -------------------------------------------------------------------------------------


def test_ranks_are_found_in_the_environment(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ds = kinds["manifest"]
    alone = [content(batch) for batch in ds.shuffled(4)]
    monkeypatch.setenv("RANK", "1")
    assert [content(batch) for batch in ds.shuffled(4)] == alone  # one of how many?
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert [content(batch) for batch in ds.shuffled(4)] == alone[1::3]
    assert len(ds.shuffled(4)) == 4
    assert [content(batch) for batch in ds.ordered(4)] == [list(range(at, min(at + 4, N))) for at in range(4, N, 12)]
    assert [content(batch) for batch in ds.shuffled(4, rank=0, world_size=2)] == alone[::2]
    for rank, size in (("3", "3"), ("-1", "3"), ("x", "3"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(ValueError, match=f"RANK='{rank}' and WORLD_SIZE='{size}'"):
            list(ds.shuffled(4))


def test_torch_distributed_comes_before_the_environment(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ds = kinds["manifest"]
    alone = [content(batch) for batch in ds.shuffled(4)]
    started = True
    fake = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: started, get_rank=lambda: 1, get_world_size=lambda: 2
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", fake)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    one = ds.shuffled(4)
    assert [content(batch) for batch in one] == alone[1::2]
    sent = pickle.dumps(one)
    started = False
    assert [content(batch) for batch in one] == alone[2::3]
    assert [content(batch) for batch in pickle.loads(sent)] == alone[1::2]  # a spawned worker has no process group


def test_the_whole_dataset_is_never_dealt_out(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with worker(1, 2):
        for kind in KINDS:
            ds = kinds[kind]
            assert [s.label for s in ds] == list(range(N))
            assert [s.label for s in ds.head(9)] == list(range(9))
            assert len(list(ds.keyed())) == N
            assert ds.to_arrow()["label"].to_pylist() == list(range(N))
        assert [s.label for s in kinds["manifest"][3:5]] == [3, 4]


def test_what_makes_no_sense_is_refused(kinds: dict[str, Any]) -> None:
    ds = kinds["manifest"]
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"block": 0}, "block must be at least 1"),
        ({"window": -1}, "window must be at least 1"),
        ({"lanes": 0}, "lanes must be at least 1"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"epoch": -1}, "epochs are counted from 0"),
        ({"remainder": "keep"}, "'uneven', 'drop' or 'pad', not 'keep'"),
        ({"remainder": "pad"}, "needs a batch_size"),
        ({"rank": 1}, "given together"),
        ({"world_size": 1}, "given together"),
        ({"rank": 2, "world_size": 2}, "not 2 of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ds.shuffled(**options)
    for seed in ("1", 1.0, True, None):
        with pytest.raises(TypeError, match="seed"):
            ds.shuffled(seed=seed)
    with pytest.raises(atdata.AtdataError, match="iterator cannot be shuffled"):
        iter(atdata.Dataset.from_samples(iter(digits(3)), Digit).shuffled())


# -- the arithmetic ------------------------------------------------------------------------------------------


@given(
    length=st.integers(0, 60),
    size=st.integers(1, 9),
    ranks=st.integers(1, 5),
    workers=st.integers(1, 4),
    remainder=st.sampled_from(["uneven", "drop", "pad"]),
    start=st.integers(0, 60),
)
def test_deals(length: int, size: int, ranks: int, workers: int, remainder: Any, start: int) -> None:
    start = min(start, length)
    deals = [
        Deal(length, size, Share(rank, ranks, number, workers), remainder, start)
        for rank in range(ranks)
        for number in range(workers)
    ]
    found = sorted(p for deal in deals for p in deal.positions(0, len(deal)).tolist())
    assert len(found) == len(set(found))
    if remainder == "uneven":
        assert found == list(range(start, length))
    else:
        assert found == list(range(start, start + len(found)))
        assert len(found) % (ranks * size) == 0
        assert (len(found) <= length - start) if remainder == "drop" else (len(found) >= length - start)
        assert abs(len(found) - (length - start)) < ranks * size
    for deal in deals:
        each = [deal.positions(number, number + 1).tolist() for number in range(len(deal))]
        assert list(itertools.chain.from_iterable(each)) == deal.positions(0, len(deal)).tolist()
        assert [deal.begins(number) for number in range(len(deal))] == [positions[0] for positions in each]
        wrapped = deal.wrap(deal.positions(0, len(deal)))
        assert not len(wrapped) or (wrapped.min() >= 0 and wrapped.max() < length)
        assert deal.after(0) == start
        assert deal.after(len(deal)) <= deal.end
