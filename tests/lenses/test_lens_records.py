"""Stored lenses: what was declared comes back, code never does, and hostile records do no harm."""

from __future__ import annotations

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cbrrr import decode_dag_cbor, encode_dag_cbor
from hypothesis import given
from hypothesis import strategies as st
from lens_samples import Labelled, New, Old, Photo, Short, declared, everything, old, shorten, simplify

import atdata
from atdata.errors import LensError, LensRecordError
from atdata.lenses.references import CodeReference, LensReference, source_digest

LENS = everything()
CODE = CodeReference("https://github.com/someone/photos", "0123456789abcdef" * 2 + "01234567", "src/photos/lenses.py")
NOW = "2026-01-02T03:04:05+00:00"
URIS = ("at://did:plc:abc/science.alt.dataset.schema/a", "at://did:plc:abc/science.alt.dataset.schema/b")


def again(record: Any) -> Any:
    """The record as an index would give it back: out of JSON text."""
    return json.loads(json.dumps(record, allow_nan=False))


# -- declared lenses -----------------------------------------------------------------------------------------


def test_exactly_what_was_declared_comes_back() -> None:
    record = again(LENS.to_record())
    back = atdata.Lens.from_record(record, Old, New)
    assert back == LENS
    assert isinstance(back, atdata.Lens)
    assert back.get(old()) == LENS.get(old())
    assert back.to_record() == LENS.to_record()
    assert back.cid == LENS.cid  # type: ignore[attr-defined]
    assert record["getter"] == {
        "kind": "declared",
        "declared": {
            "version": 1,
            "rename": {"cm": "metres", "grams": "kilos", "lbl": "label", "left": "frame.x", "top": "frame.y"},
            "drop": ["secret"],
            "default": {
                "mean": {"msgpack": base64.b64encode(atdata_bytes(np.arange(3.0))).decode()},
                "split": {"value": "train"},
                "tags": {"msgpack": "kqFhoWI="},
            },
            "cast": ["color", "exact", "many", "maybe", "metres", "pixels", "when"],
            "unnest": ["box"],
            "scale": {"kilos": [1, 1000], "metres": [1, 100], "pixels": [-2, 1]},
        },
    }
    assert record["putter"] == record["getter"]


def atdata_bytes(array: Any) -> bytes:
    from atdata.samples.build import encode_default
    from atdata.samples.fields import Array

    return encode_default(Array(array.dtype), array, "")


def test_the_network_form() -> None:
    record = LENS.to_network_record(*URIS, NOW)
    assert decode_dag_cbor(encode_dag_cbor(record)) == record  # no floats, as the network wants it
    assert record["$type"] == "science.alt.dataset.lens"
    assert (record["sourceSchema"], record["targetSchema"]) == URIS
    for key in ("getterCode", "putterCode"):
        code = record[key]
        assert 0 < len(code["repository"]) <= 500
        assert len(code["commit"]) == 40
        assert 0 < len(code["path"]) <= 500
        assert code["language"] == "python"
    assert atdata.Lens.from_record(again(record), Old, New) == LENS
    assert len(record["name"]) <= 100


def test_where_fields_only_move_other_readers_understand_it() -> None:
    record = again(declared.to_record())
    assert record["getter"]["kind"] == "field_mapping"
    assert record["getter"]["mappings"] == [{"source_field": "label", "view_field": "label", "transform": None}]
    assert record["putter"]["mappings"] == [{"source_field": "label", "view_field": "label", "transform": None}]
    assert atdata.Lens.from_record(record, Photo, Labelled) == declared
    renamed = atdata.Lens.fields(Labelled, Short, rename={"label": "letter"}).to_record()
    assert renamed["getter"]["mappings"] == [{"source_field": "label", "view_field": "letter", "transform": None}]
    assert renamed["putter"]["mappings"] == [{"source_field": "letter", "view_field": "label", "transform": None}]
    record["getter"]["mappings"][0]["source_field"] = "note"
    with pytest.raises(LensRecordError, match=r"what the stored lens .* declares is not what its mappings say"):
        atdata.Lens.from_record(record, Photo, Labelled)


def test_a_class_built_from_the_schema_will_do() -> None:
    stored = atdata.Schema.from_record(atdata.Schema.of(Photo).to_record()).sample_type()
    back = atdata.Lens.from_record(declared.to_record(), stored, Labelled)
    assert isinstance(back, atdata.Lens)
    assert back.get(stored(image=np.zeros(1, np.uint8), label="cat", iso=1)) == Labelled("cat")


def test_the_content_identifier_is_that_of_the_declaration_and_the_schemas() -> None:
    other = atdata.Lens.fields(Photo, Labelled, rename={"note": "label"}, drop=["image", "iso", "label"])
    assert declared.cid != other.cid
    assert declared.cid == atdata.Lens.fields(Photo, Labelled, drop=["note", "iso", "image"]).cid
    assert declared.cid.startswith("bafyrei")


# -- code ----------------------------------------------------------------------------------------------------


def test_code_is_stored_as_where_it_is() -> None:
    record = again(simplify.to_record(CODE))
    assert record["getter"] == {
        "kind": "code_reference", "module": "lens_samples", "qualname": "simplify",
        "repository": CODE.repository, "commit": CODE.commit, "path": CODE.path,
    }  # fmt: skip
    assert record["putter"]["qualname"] == "_"
    assert record["description"] == "What the photo shows."
    assert "label=src.label" not in json.dumps(record)
    found = atdata.Lens.from_record(record, Photo, Labelled)
    assert isinstance(found, LensReference)
    assert str(found) == (
        "the lens simplify (Photo -> Labelled) is stored without what it does, as it is code. To use it: get simplify "
        f"from {CODE.path} of {CODE.repository} at commit {CODE.commit}, read it, import it, and call bind(the_lens) "
        "of this reference"
    )
    assert found.bind(simplify) is simplify
    network = again(simplify.to_network_record(*URIS, NOW, CODE))
    assert network["getterCode"]["path"] == "src/photos/lenses.py:simplify"
    assert network["putterCode"]["path"] == "src/photos/lenses.py:_"
    assert atdata.Lens.from_record(network, Photo, Labelled).bind(simplify) is simplify  # type: ignore[union-attr]
    with pytest.raises(LensError, match="simplify is code: the network wants to know the repository"):
        simplify.to_network_record(*URIS, NOW)


def test_only_the_lens_that_was_stored_is_bound() -> None:
    found = atdata.Lens.from_record(simplify.to_record(), Photo, Labelled)
    assert isinstance(found, LensReference)
    assert "its author had it in the module lens_samples, as simplify" in str(found)

    def getter(src: Photo) -> Labelled:
        return Labelled(src.label + "!")

    with pytest.raises(
        LensRecordError, match=r"the code of test_lens_records\..*getter is not what was stored as simplif"
    ):
        found.bind(atdata.Lens(getter))
    getter_only = atdata.Lens(simplify.functions[0])
    with pytest.raises(LensRecordError, match="is not what was stored"):
        found.bind(getter_only)  # without its putter it is another lens
    with pytest.raises(LensRecordError, match=r"first_letter reads Labelled .*, the stored simplify reads Photo"):
        found.bind(shorten)
    with pytest.raises(LensError, match=r"fields\(Photo -> Labelled\) is not made of functions"):
        found.bind(declared)


def test_the_digest_is_of_the_text_and_not_of_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "def go(src: Labelled) -> Short:\n    return Short(src.label)\n"
    (tmp_path / "digest_a.py").write_text(f"from lens_samples import *\n{body}")
    spaced = "".join(f"    {line}   \n" for line in body.splitlines())
    (tmp_path / "digest_b.py").write_text(f"from lens_samples import *\nif True:\n{spaced}")
    (tmp_path / "digest_c.py").write_text(f"from lens_samples import *\n{body.replace('Short(src', 'Short(2 * src')}")
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for name in ("digest_a", "digest_b", "digest_c"):
        digests.append(source_digest(atdata.Lens(__import__(name).go)))
        del sys.modules[name]
    assert digests[0] == digests[1] != digests[2]


def test_lenses_that_are_not_stored() -> None:
    with pytest.raises(LensError, match="is not stored by itself: store the lenses that it is made of"):
        (simplify | shorten).to_record()
    with pytest.raises(LensError, match="is declared: there is no code to refer to"):
        declared.to_record(CODE)
    space: dict[str, Any] = {"Photo": Photo, "Labelled": Labelled}
    exec("def nowhere(src: Photo) -> Labelled: ...", space)
    with pytest.raises(LensError, match="the text of nowhere is not to be had: define it in a file"):
        atdata.Lens(space["nowhere"]).to_record()


@pytest.mark.parametrize(
    ("repository", "commit", "path", "message"),
    [
        ("", "0" * 40, "a.py", "the repository of a code reference is text of 1 to 450 bytes"),
        ("r", "0" * 39, "a.py", "a commit is named by 40 hexadecimal digits"),
        ("r", "G" * 40, "a.py", "a commit is named by 40 hexadecimal digits"),
        ("r", "0" * 40, "a\x1b.py", "the path of a code reference"),
        ("r", "0" * 40, "a" * 451, "the path of a code reference"),
        (None, "0" * 40, "a.py", "the repository"),
    ],
)
def test_code_references_that_name_nothing(repository: Any, commit: Any, path: Any, message: str) -> None:
    with pytest.raises(LensRecordError, match=message):
        CodeReference(repository, commit, path)


# -- records of others ---------------------------------------------------------------------------------------

FOREIGN = {
    "name": "simplify",
    "version": "1.0.0",
    "source_schema": "Photo",
    "view_schema": "Labelled",
    "created_at": "2025-01-01T00:00:00+00:00",
    "$ref": "atdata://local/lens/simplify@1.0.0",
}


def test_a_mapping_that_nobody_declared_is_not_believed() -> None:
    """Others write one for every lens whose fields have the same names, be it `x * 1000`."""
    mapping = {
        "kind": "field_mapping",
        "mappings": [{"source_field": "label", "view_field": "label", "transform": None}],
    }
    found = atdata.Lens.from_record({**FOREIGN, "getter": mapping, "putter": mapping}, Photo, Labelled)
    assert isinstance(found, LensReference)
    assert "as its fields have the same names in both types, which says nothing of what it does to them" in str(found)
    with pytest.raises(LensRecordError, match="the record of simplify has no hash of its code"):
        found.bind(simplify)


@pytest.mark.parametrize("module", ["os", "hostile_lens_module"])
def test_code_of_others_is_never_imported(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "hostile_lens_module.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    getter = {"kind": "code_reference", "module": module, "qualname": "system"}
    found = atdata.Lens.from_record({**FOREIGN, "getter": getter, "putter": getter}, Photo, Labelled)
    assert isinstance(found, LensReference)
    assert found.module == module
    assert not marker.exists()
    assert "hostile_lens_module" not in sys.modules


def test_opaque_and_network_records_of_others() -> None:
    found = atdata.Lens.from_record({**FOREIGN, "getter": {"kind": "opaque"}}, Photo, Labelled)
    assert "its writer could not say what it does" in str(found)
    assert "its author says where its code is" in str(found)
    record = {
        "$type": "science.alt.dataset.lens", "name": "simplify", "sourceSchema": URIS[0], "targetSchema": URIS[1],
        "getterCode": {"repository": CODE.repository, "commit": CODE.commit, "path": "photos.py:simplify"},
        "putterCode": {"repository": CODE.repository, "commit": CODE.commit, "path": "photos.py:unsimplify"},
        "metadata": {"anything": [1, 2]}, "createdAt": NOW,
    }  # fmt: skip
    network = atdata.Lens.from_record(record, Photo, Labelled)
    assert isinstance(network, LensReference)
    assert (network.qualname, network.code) == ("simplify", CodeReference(CODE.repository, CODE.commit, "photos.py"))


# -- hostile records -----------------------------------------------------------------------------------------


def changed(**parts: Any) -> dict[str, Any]:
    record = again(LENS.to_record())
    record["getter"]["declared"] |= parts
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "a lens record is a JSON object, not NoneType"),
        ([], "a lens record is a JSON object, not list"),
        ({}, "the name in a lens record is text"),
        ({**FOREIGN}, "`getter` is a JSON object, not NoneType"),
        ({**FOREIGN, "name": "a\x1b[31m"}, "the name in a lens record is text of at most 1000 characters"),
        ({**FOREIGN, "name": "a" * 1001}, "the name in a lens record is text of at most 1000 characters"),
        ({**FOREIGN, "getter": {"kind": "eval"}}, "is of the kind 'eval', which this atdata does not know"),
        ({**FOREIGN, "getter": {"kind": ["declared"]}}, "which this atdata does not know"),
        ({**FOREIGN, "getter": {"kind": "opaque"}, "digest": "zz"}, "is not 64 hexadecimal digits"),
        ({**FOREIGN, "getter": {"kind": "code_reference", "path": "a.py"}}, "repository in a lens record is text"),
        (changed(exec="import os"), "a declared lens has no part 'exec'; this atdata knows rename, drop, default"),
        (changed(version=2), "has format version 2; this atdata reads 1"),
        (changed(version=True), "has format version True; this atdata reads 1"),
        (changed(rename=["a"]), "`rename` of a declared lens is a JSON object"),
        (changed(drop={"a": 1}), "`drop` of a declared lens is a JSON list"),
        (changed(drop="secret"), "`drop` of a declared lens is a JSON list"),
        (changed(drop=["secret", "secret"]), "names a field twice in one list"),
        (changed(drop=[1]), "a field in a lens record is text"),
        (changed(drop=["__class__.__init__"]), "fields Old_to_New|Old has no field '__class__'"),
        (changed(drop=["a b"]), "'a b' is not the name of a field"),
        (changed(drop=["secret", "a." * 300 + "a"]), "nested more than 32 deep"),
        (changed(drop=[f"f{i}" for i in range(10_001)]), "has at most 10000 parts"),
        (changed(nest={"box": [f"f{i}" for i in range(10_001)]}), "has at most 10000 parts"),
        (changed(nest={"box": "x"}), "are lists of names"),
        (changed(rename={"lbl": 3}), "a field in a lens record is text"),
        (changed(scale={"metres": 0.01}), "the factor of 'metres' is not two whole numbers"),
        (changed(scale={"metres": [1, 0]}), "is not two whole numbers, the second above 0"),
        (changed(scale={"metres": [0, 1]}), "a factor of 0 would lose every value"),
        (changed(scale={"metres": [True, 1]}), "is not two whole numbers"),
        (changed(scale={"metres": [2, 200]}), "is not in its lowest terms"),
        (changed(scale={"metres": [1, 2**60]}), "is not two whole numbers"),
        (changed(default={"split": "train"}), "a default is a JSON object, not str"),
        (changed(default={"split": {"value": "train", "code": "x"}}), "a default is given as `value` or as `msgpack`"),
        (changed(default={"split": {"value": [1]}}), "a default under `value` is a text"),
        (changed(default={"split": {"value": 0.5}}), "a default under `value` is a text"),
        (changed(default={"split": {"value": "\ud800"}}), "lone surrogate"),
        (changed(default={"split": {"msgpack": "?"}}), "is not base64"),
        (changed(default={"split": {"msgpack": "A" * (2 << 20)}}), "has more than 1 MiB"),
        (changed(default={"split": {"msgpack": "A" * (3 << 20)}}), "of at most 1 MiB"),
        (changed(default={"split": {"msgpack": "wQ=="}}), r"New\.split.*the default"),
        (changed(default={"split": {"value": 3}}), r"New\.split: .*the default does not fit: expected str, got int"),
        (changed(rename={"label": "lable"}), r"Old\.label: .*Old has no field 'label'; did you mean lbl or maybe\?"),
        (changed(rename={}), r"Old\.\w+: .*goes nowhere|comes from nowhere"),
        (changed(cast=[]), r"New\.color: .*is str, and Old\.color is Color"),
    ],
)
def test_records_that_are_refused(record: Any, message: str) -> None:
    with pytest.raises(LensRecordError, match=message):
        atdata.Lens.from_record(record, Old, New)


def test_a_stored_lens_for_other_fields() -> None:
    with pytest.raises(
        LensRecordError, match=r"the lens is stored for Photo \(bafyrei\w+\), and Labelled \(bafyrei\w+\) has"
    ):
        atdata.Lens.from_record(declared.to_record(), Labelled, Labelled)
    record = declared.to_record()
    del record["source_cid"], record["view_cid"], record["getter"]["mappings"]
    with pytest.raises(
        LensRecordError, match=r"the stored lens Photo_to_Labelled does not fit: Labelled has no field .image.; there"
    ) as e:
        atdata.Lens.from_record(record, Labelled, Labelled)
    assert e.value.field == "Labelled.image"


def test_a_record_with_many_long_names() -> None:
    record = declared.to_record()
    del record["getter"]["mappings"]
    record["getter"]["declared"]["rename"] = {f"a{i:0150d}": f"b{i:0150d}" for i in range(9_000)}
    with pytest.raises(LensRecordError, match="has no field 'a0000"):
        atdata.Lens.from_record(record, Photo, Labelled)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["lbl", "label", "box", "box.x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("value"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(["version", "rename", "drop", "default", "cast", "nest", "unnest", "scale"]), JSON)
def test_any_part_may_be_anything(part: str, value: Any) -> None:
    record = changed(**{part: value})
    try:
        found = atdata.Lens.from_record(record, Old, New)
    except LensRecordError:
        return
    assert isinstance(found, atdata.Lens)
    assert found.to_record()["getter"]["declared"].get(part, type(value)()) == value


@given(JSON, JSON, JSON)
def test_a_record_may_be_anything(getter: Any, name: Any, meta: Any) -> None:
    for record in (getter, {**FOREIGN, "name": name, "getter": getter}, {"getterCode": getter, "metadata": meta}):
        try:
            atdata.Lens.from_record(copy.deepcopy(record), Old, New)
        except LensRecordError:
            continue
