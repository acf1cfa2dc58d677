"""What every index does with lenses: it keeps declared ones whole, of code where it is, and shows data through them."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import atdata
from atdata.errors import AtdataError, LensError, LensRecordError, SchemaError
from atdata.index.base import AbstractIndex
from atdata.lenses.references import CodeReference, LensReference

__all__ = ["LensSuite"]

CODE = CodeReference("https://example.org/tides", "0123456789abcdef" * 2 + "01234567", "src/tides/lenses.py")


@atdata.packable
class Sounding:
    """How it was measured first: in centimetres."""

    depth: float
    place: str


@atdata.packable
class Depth:
    """The same in metres, by the same names, so that the fields alone would mislead."""

    depth: float
    place: str


@atdata.packable
class Level:
    """How another team has it."""

    level: float
    name: str
    unit: str


METRES = atdata.Lens.fields(Sounding, Depth, scale={"depth": 0.01})
LEVELS = atdata.Lens.fields(Depth, Level, rename={"depth": "level", "place": "name"}, default={"unit": "m"})


def shouted(src: Sounding) -> Level:
    """Depths with names in capitals."""
    return Level(src.depth / 100, src.place.upper(), "m")


def thousandfold(src: Sounding) -> Depth:
    """Its names are those of what it reads, and its numbers are not."""
    return Depth(src.depth * 1000, src.place)


SHOUTED = atdata.Lens(shouted)
THOUSANDFOLD = atdata.Lens(thousandfold)


class LensSuite:
    """Tests of an index's lenses; part of `IndexSuite`, which gives the fixtures."""

    def opened(self, shelf: Any, urls: list[str], sample_type: type) -> atdata.Dataset[Any]:
        """A dataset of shards that lie on the shelf."""
        raise NotImplementedError("IndexSuite has it")

    def soundings(self, index: AbstractIndex, shelf: Any) -> None:
        """A dataset `soundings` in the index, of three samples."""
        samples = [Sounding(150.0 * n, f"buoy {n}") for n in range(3)]
        urls = shelf.write_shards(atdata.Dataset.from_samples(samples, Sounding), prefix="soundings")
        index.insert_dataset(self.opened(shelf, urls, Sounding), name="soundings")

    def test_a_declared_lens_comes_back_as_it_was(self, index: AbstractIndex) -> None:
        """With the schemas that it is between, and types built of these; the same again gives the same reference."""
        ref = index.publish_lens(LEVELS)
        for stored in (index.get_lens(ref), index.get_lens("Depth_to_Level"), *index.list_lenses()):
            assert (stored.uri, stored.name, stored.declared) == (ref, "Depth_to_Level", True)
            assert abs(stored.created_at - datetime.now(UTC)) < timedelta(hours=1)
            assert stored.load(Depth, Level) == LEVELS
            assert index.get_schema(stored.source).cid == atdata.Schema.of(Depth).cid
            assert index.get_schema(stored.view).cid == atdata.Schema.of(Level).cid
        made: Any = index.get_lens(ref).load()
        assert made.source is not Depth
        seen = made.get(made.source(depth=1.5, place="buoy"))
        assert (seen.level, seen.name, seen.unit) == (1.5, "buoy", "m")
        assert made.put(made.view(level=2.5, name="b", unit="m"), made.source(depth=1.5, place="buoy")).depth == 2.5
        assert index.publish_lens(LEVELS) == ref
        assert len(list(index.list_lenses())) == 1

    def test_every_operation_comes_back(self, index: AbstractIndex) -> None:
        """Exactly: defaults of every kind, factors that no float has, names of another script."""

        @atdata.packable
        class Before:
            x: int
            y: int
            größe: int
            gone: str

        @atdata.packable
        class Point:
            x: int
            y: int

        @atdata.packable
        class After:
            point: Point
            length: float
            weight: float
            raw: bytes
            note: str | None

        declared = atdata.Lens.fields(
            Before, After, rename={"größe": "length"}, drop=["gone"], nest={"point": ["x", "y"]}, cast=["length"],
            scale={"length": 0.1}, default={"weight": 0.1, "raw": b"\x00\xff", "note": None},
        )  # fmt: skip
        stored = index.get_lens(index.publish_lens(declared))
        assert stored.load(Before, After) == declared
        seen: Any = stored.load().get(stored.schemas[0].sample_type()(x=1, y=2, größe=7, gone=""))  # type: ignore[union-attr]
        assert (seen.point.x, seen.point.y, seen.length, seen.weight) == (1, 2, 0.7, 0.1)
        assert (seen.raw, seen.note) == (b"\x00\xff", None)

    def test_code_is_kept_as_where_it_is(self, index: AbstractIndex) -> None:
        """Loading it says what to do, and only that very code is taken for it."""
        with pytest.raises(LensError, match="shouted is code"):
            index.publish_lens(SHOUTED)
        assert list(index.list_schemas()) == []
        stored = index.get_lens(index.publish_lens(SHOUTED, code=CODE))
        assert (stored.name, stored.declared, stored.description) == (
            "shouted",
            False,
            "Depths with names in capitals.",
        )
        assert "upper" not in json.dumps(dict(stored.record))
        reference = stored.load()
        assert isinstance(reference, LensReference)
        assert reference.code == CODE
        for part in (CODE.repository, CODE.commit, CODE.path, "read it, import it, and call bind"):
            assert part in str(reference)
        assert reference.bind(SHOUTED) is SHOUTED

        def other(src: Sounding) -> Level:
            return Level(src.depth / 100, src.place, "m")

        with pytest.raises(LensRecordError, match="is not what was stored as shouted"):
            reference.bind(atdata.Lens(other))

    def test_the_lens_that_was_published_last_is_meant(self, index: AbstractIndex) -> None:
        """Of several of one name; also when it was published before."""
        feet = atdata.Lens.fields(Sounding, Depth, scale={"depth": 0.0328})
        first, second = index.publish_lens(METRES), index.publish_lens(feet)
        assert index.get_lens("Sounding_to_Depth").uri == second
        assert index.get_lens(first).load(Sounding, Depth) == METRES
        assert index.publish_lens(METRES) == first
        assert index.get_lens("Sounding_to_Depth").uri == first
        assert {stored.uri for stored in index.list_lenses()} == {first, second}

    def test_words_about_a_type_make_no_other_schema_of_it(self, index: AbstractIndex, shelf: Any) -> None:
        """A class whose docstring changed is between the same schemas, and its lens takes the place of the first."""
        self.soundings(index, shelf)
        told: type = atdata.packable(
            type("Depth", (), {"__annotations__": {"depth": float, "place": str}, "__doc__": "Told anew."})
        )
        feet: Any = atdata.Lens.fields(Sounding, told, scale={"depth": 0.0328})
        first, second = (index.get_lens(index.publish_lens(lens)) for lens in (METRES, feet))
        assert (first.source, first.view) == (second.source, second.view)
        assert len(list(index.list_schemas())) == 2
        seen = atdata.load_dataset("soundings", Depth, index=index, store=shelf)
        assert seen[1].depth == pytest.approx(150 * 0.0328)

    def test_stored_lenses_cross_process_borders(self, index: AbstractIndex) -> None:
        """With their schemas, without the index."""
        index.publish_lens(METRES)
        (stored,) = index.list_lenses()
        again = pickle.loads(pickle.dumps(stored))  # noqa: S301
        assert again == stored
        assert again.load(Sounding, Depth) == METRES
        assert again.load().get(again.schemas[0].sample_type()(depth=1.0, place="")).depth == 0.01

    def test_lenses_are_listed_by_their_schemas(self, index: AbstractIndex) -> None:
        """All, those that read one, those that give one."""
        assert list(index.list_lenses()) == []
        refs = {index.publish_lens(METRES), index.publish_lens(LEVELS), index.publish_lens(SHOUTED, code=CODE)}
        assert {stored.uri for stored in index.list_lenses()} == refs
        sounding, level = (index.publish_schema(cls) for cls in (Sounding, Level))
        assert sorted(stored.name for stored in index.list_lenses(source=sounding)) == ["Sounding_to_Depth", "shouted"]
        assert sorted(stored.name for stored in index.list_lenses(view=level)) == ["Depth_to_Level", "shouted"]
        assert [stored.name for stored in index.list_lenses(source=sounding, view=level)] == ["shouted"]
        assert list(index.list_lenses(source=level)) == []

    def test_a_missing_lens_is_an_error_that_says_what_there_is(self, index: AbstractIndex) -> None:
        """By name and by reference."""
        with pytest.raises(LookupError, match="no lens 'x'; there are: none"):
            index.get_lens("x")
        ref = index.publish_lens(METRES)
        with pytest.raises(LookupError, match="there are: Sounding_to_Depth"):
            index.get_lens("Sounding")
        with pytest.raises(LookupError, match="no lens"):
            index.get_lens(ref[:-1] + ("a" if ref[-1] != "a" else "b"))
        for wrong in ("", "\0", "' OR 1=1 --", "x" * 5000, "🦜"):
            with pytest.raises((LookupError, ValueError)):
                index.get_lens(wrong)

    def test_what_cannot_be_kept_is_refused(self, index: AbstractIndex) -> None:
        """Several lenses in one, what is none, types without fields, and schemas of other types."""
        with pytest.raises(LensError, match="store the lenses that it is made of"):
            index.publish_lens(METRES | LEVELS)
        with pytest.raises(LensError, match="is no lens"):
            index.publish_lens(shouted)  # type: ignore[arg-type]
        assert list(index.list_schemas()) == []

        def loose(src: atdata.DictSample) -> Level:
            return Level(src["depth"], "", "")

        with pytest.raises(AtdataError, match="DictSample"):
            index.publish_lens(atdata.Lens(loose), code=CODE)
        other = index.publish_schema(Level)
        with pytest.raises(SchemaError, match=r"reads Sounding, and not Level@1\.0\.0"):
            index.publish_lens(METRES, source_schema=other)
        with pytest.raises(SchemaError, match=r"gives Depth, and not Level@1\.0\.0"):
            index.publish_lens(METRES, view_schema=other)
        assert list(index.list_lenses()) == []
        given = index.publish_lens(LEVELS, view_schema=other)
        assert index.get_lens(given).view == other

    # -- data seen through them ------------------------------------------------------------------------------

    def test_data_is_seen_through_lenses_of_the_index(self, index: AbstractIndex, shelf: Any) -> None:
        """By whoever has the classes alone; through several; and a lens counts where the fields would mislead."""
        self.soundings(index, shelf)
        options = {"index": index, "store": shelf}
        with pytest.raises(SchemaError, match="no lens leads from Sounding"):
            atdata.load_dataset("soundings", Level, **options)
        assert [s.depth for s in atdata.load_dataset("soundings", Depth, **options)] == [0.0, 150.0, 300.0]
        index.publish_lens(LEVELS)
        index.publish_lens(METRES)
        seen = atdata.load_dataset("soundings@1.0.0", Depth, **options)
        assert [(s.depth, s.place) for s in seen] == [(0.0, "buoy 0"), (1.5, "buoy 1"), (3.0, "buoy 2")]
        assert type(seen[0]) is Depth
        far = atdata.load_dataset("soundings", Level, **options)
        assert list(far) == [Level(1.5 * n, f"buoy {n}", "m") for n in range(3)]
        assert [level for batch in far.ordered(batch_size=2) for level in batch.level] == [0.0, 1.5, 3.0]
        assert [s.depth for s in atdata.load_dataset("soundings", Sounding, **options)] == [0, 150, 300]

    def test_code_that_would_lead_there_is_named(self, index: AbstractIndex, shelf: Any) -> None:
        """And not passed over; once it is imported, it is used."""
        self.soundings(index, shelf)
        options = {"index": index, "store": shelf}
        ref = index.publish_lens(SHOUTED, code=CODE)
        with pytest.raises(SchemaError) as caught:
            atdata.load_dataset("soundings", Level, **options)
        for part in ("through code that the index only refers to: the lens shouted", CODE.commit, CODE.path, ref):
            assert part in str(caught.value)
        assert [s["depth"] for s in atdata.load_dataset("soundings", atdata.DictSample, **options)] == [0, 150, 300]
        known = atdata.lens(atdata.Lens(shouted))  # for as long as this test holds it
        assert [s.name for s in atdata.load_dataset("soundings", Level, **options)] == [f"BUOY {n}" for n in range(3)]
        assert known == SHOUTED

    def test_code_is_not_taken_for_what_its_names_suggest(self, index: AbstractIndex, shelf: Any) -> None:
        """Neither as moving fields of the same names, nor as if it were not there."""
        self.soundings(index, shelf)
        options = {"index": index, "store": shelf}
        assert [s.depth for s in atdata.load_dataset("soundings", Depth, **options)] == [0.0, 150.0, 300.0]
        index.publish_lens(THOUSANDFOLD, code=CODE)
        assert isinstance(index.get_lens("thousandfold").load(Sounding, Depth), LensReference)
        with pytest.raises(SchemaError, match="through code that the index only refers to: the lens thousandfold"):
            atdata.load_dataset("soundings", Depth, **options)
        known = atdata.lens(index.get_lens("thousandfold").load().bind(atdata.Lens(thousandfold)))  # type: ignore[union-attr]
        assert [s.depth for s in atdata.load_dataset("soundings", Depth, **options)] == [0.0, 150_000.0, 300_000.0]
        assert known == THOUSANDFOLD
