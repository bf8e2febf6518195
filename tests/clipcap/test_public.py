"""What ``import clipcap`` offers: a list that changes on purpose, the same for people and for type checkers."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import clipcap

PUBLIC = {
    "clipcap.captioning": {"CaptionedImage", "caption_images"},
    "clipcap.config": {"CaptionConfig", "Config", "load_config", "parse_config"},
    "clipcap.decoding": {"Caption", "generate", "generate_many"},
    "clipcap.embedding.encoder": {"Encoder", "get_encoder"},
    "clipcap.errors": {"ClipCapError"},
    "clipcap.metrics.compare": {"compare"},
    "clipcap.metrics.evaluate": {"Scores", "score"},
    "clipcap.metrics.score_tables": {"score_tables"},
    "clipcap.model": {"Captioner", "load_captioner", "save_captioner"},
    "clipcap.model.published_export": {"export_weights"},
    "clipcap.model.published_weights": {"ImportOptions", "import_weights"},
    "clipcap.report": {"render_report"},
    "clipcap.storage.lake": {"Lake"},
    "clipcap.storage.manifest": {"read_current"},
    "clipcap.warehouse.queries": {"list_macros", "list_views", "query"},
    "clipcap.warehouse.search": {"search"},
}
NAMES = sorted(name for names in PUBLIC.values() for name in names)


def test_the_public_names_are_these():
    assert sorted(clipcap.__all__) == sorted(["__version__", *NAMES])
    assert set(clipcap.__all__) <= set(dir(clipcap))


def test_type_checkers_see_the_same_names_from_the_same_modules():
    [block] = [
        node for node in ast.parse(Path(clipcap.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]  # fmt: skip
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {node.module: {alias.name for alias in node.names} for node in imports} == PUBLIC
    assert Path(clipcap.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("module", PUBLIC)
def test_each_name_is_what_its_module_has_is_annotated_and_says_what_it_is(module: str):
    for name in PUBLIC[module]:
        found = getattr(clipcap, name)
        assert found is getattr(import_module(module), name)
        assert inspect.getdoc(found)
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'captions_images'"):
        clipcap.captions_images  # noqa: B018
