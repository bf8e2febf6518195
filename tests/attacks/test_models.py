"""Pickles and code in every file that a user can name: refused in one line, and nothing of it runs."""

from __future__ import annotations

import ast
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipcap.errors import ClipCapError, ConfigError
from clipcap.storage.lake import Lake

ROOT = Path(__file__).resolve().parents[2]


class Malice:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def pickled(file: Path, trace: Path, kind: str = "torch") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "torch":
        torch.save({"weight": Malice(trace), "state_dict": {"a": torch.zeros(1)}}, file)
    elif kind == "numpy":
        with file.open("wb") as stream:
            np.save(stream, np.array([Malice(trace)], object), allow_pickle=True)
    else:
        file.write_bytes(pickle.dumps(Malice(trace)))
    return file


def import_weights(folder: Path, trace: Path) -> None:
    from clipcap.model.published_weights import import_weights

    import_weights(pickled(folder / "w.pt", trace), folder / "out")


def encoder_file(folder: Path, trace: Path) -> None:
    from clipcap.embedding.encoder import Encoder

    assert Encoder(f"RN50/{pickled(folder / 'w.pt', trace)}", "cpu").model


def encoder_folder(folder: Path, trace: Path) -> None:
    from clipcap.embedding.encoder import Encoder

    pickled(folder / "open_clip_pytorch_model.bin", trace)
    vision = {"image_size": 32, "layers": 1, "width": 8, "patch_size": 16, "head_width": 4}
    text = {"context_length": 8, "vocab_size": 100, "width": 8, "heads": 2, "layers": 1}
    sizes = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}))
    assert Encoder(f"local-dir:{folder}", "cpu").model


def language_model(folder: Path, trace: Path) -> None:
    from clipcap.model.pretrained import load_language_model

    sizes = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 20, "n_positions": 8}
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], **sizes}))
    (folder / "vocab.json").write_text('{"<|endoftext|>": 0, "a": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    pickled(folder / "pytorch_model.bin", trace)
    load_language_model(str(folder))


def language_model_with_code(folder: Path, trace: Path) -> None:
    from clipcap.model.pretrained import load_language_model

    code = f"open({str(trace)!r}, 'w')\nfrom transformers import PretrainedConfig as C, PreTrainedModel as M\n"
    (folder / "evil.py").write_text(code)
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": names, "tokenizer_class": "Evil"}))
    load_language_model(str(folder))


def gguf(folder: Path, trace: Path) -> None:
    """A header that claims 2^60 tensors."""
    from clipcap.model.pretrained import load_language_model

    file = folder / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(64))
    load_language_model(str(file))


def model_folder(folder: Path, trace: Path, name: str = "mapping.safetensors", data: bytes | None = None) -> None:
    from clipcap.config import LanguageModelConfig
    from clipcap.model.captioner import Captioner, CaptionerSettings
    from clipcap.model.checkpoint import load_captioner, save_captioner
    from clipcap.model.language_model import new_language_model
    from clipcap.model.mapping import build_mapper

    sizes = LanguageModelConfig(layers=1, heads=2, hidden_size=16, vocab_size=260)
    model, tokenizer = new_language_model(sizes, ["a small dog"], positions=32)
    settings = CaptionerSettings(
        clip_dim=6, hidden_size=16, prefix_length=2, eos_id=tokenizer.eos_token_id, language_model="lm"
    )
    save_captioner(Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings), folder / "m")
    pickled(folder / "m" / name, trace) if data is None else (folder / "m" / name).write_bytes(data)
    load_captioner(folder / "m")


def lying_header(folder: Path, trace: Path) -> None:
    """safetensors: a header of 2^62 bytes."""
    model_folder(folder, trace, data=struct.pack("<Q", 2**62) + b"{}")


def lying_offsets(folder: Path, trace: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    model_folder(folder, trace, data=struct.pack("<Q", len(header)) + header)


def stored_language_model(folder: Path, trace: Path) -> None:
    model_folder(folder, trace, "lm/model.safetensors")


def embeddings(folder: Path, trace: Path) -> None:
    from clipcap.embedding.exchange import find_parts, read_part

    pickled(folder / "img_emb" / "img_emb_0.npy", trace, "numpy")
    (folder / "metadata").mkdir()
    pq.write_table(pa.table({"url": ["http://a.test/"]}), folder / "metadata" / "metadata_0.parquet")
    read_part(find_parts(folder)[0])


def claimed_embeddings(folder: Path, trace: Path) -> None:
    """A .npy whose header claims an exabyte."""
    from clipcap.embedding.exchange import find_parts, read_part

    embeddings_file = folder / "img_emb" / "img_emb_0.npy"
    embeddings_file.parent.mkdir()
    with embeddings_file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (2**50, 2**8)})
    (folder / "metadata").mkdir()
    pq.write_table(pa.table({"url": ["http://a.test/"]}), folder / "metadata" / "metadata_0.parquet")
    read_part(find_parts(folder)[0])


@pytest.mark.parametrize(
    "attack",
    [import_weights, encoder_file, encoder_folder, language_model, language_model_with_code, gguf, model_folder,
     lying_header, lying_offsets, stored_language_model, embeddings, claimed_embeddings],
    ids=lambda attack: attack.__name__,
)  # fmt: skip
def test_nothing_runs_and_one_line_says_why(tmp_path: Path, attack, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "files").mkdir()
    with pytest.raises(ClipCapError) as error:
        attack(tmp_path / "files", tmp_path / "trace")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["torch", "numpy", "pickle"])
def test_the_pickles_would_have_run(tmp_path: Path, kind: str):
    """So the test above can fail."""
    file = pickled(tmp_path / "x", tmp_path / "trace", kind)
    if kind == "torch":
        torch.load(file, weights_only=False)
    elif kind == "numpy":
        np.load(file, allow_pickle=True)
    else:
        pickle.loads(file.read_bytes())
    assert (tmp_path / "trace").exists()


def test_a_training_that_is_resumed_from_a_pickle_begins_anew(tmp_path: Path):
    from clipcap.training.checkpoints import Checkpoints

    pickled(tmp_path / "files" / "last.pt", tmp_path / "trace")
    assert Checkpoints(tmp_path / "files", "key").load() is None
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "..", ".", "", "a\0b", "a b", "x" * 200, "C:\\x", "~", "a.b"])
def test_no_name_leaves_the_lakes_folders(tmp_path: Path, name: str):
    lake = Lake(tmp_path)
    for path in (lake.model, lake.report, lake.urls, lambda n: lake.shard("b", n, "tar"),
                 lambda n: lake.captions("m", n, "s"), lambda n: lake.embeddings(n, "b", "s"),
                 lambda n: lake.ledger("land", n, "s"), lambda n: lake.metrics("m", "r", n)):  # fmt: skip
        with pytest.raises(ConfigError, match="is not an identifier"):
            path(name)


def calls(folder: str):
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                yield f"{file.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), given


FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.loads", "joblib.load", "dill.loads", "marshal.loads",
    "yaml.load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle", "shelve.open", "eval", "exec", "compile",
    "os.system", "os.popen", "torch.jit.load", "torch.package.PackageImporter",
}  # fmt: skip
UNPACKING = (".extractall", ".extract", "shutil.unpack_archive")


def is_unsafe(name: str, given: dict[str, str]) -> bool:
    return (
        name in FORBIDDEN
        or name.endswith(UNPACKING)
        or (name == "torch.load" and given.get("weights_only") != "True")
        or (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
        or given.get("trust_remote_code", "False") != "False"
        or given.get("allow_pickle", "False") != "False"
        or given.get("shell", "False") != "False"
    )


@pytest.mark.parametrize("folder", ["clipcap", "flows", "tasks"])
def test_no_line_loads_code(folder: str):
    found = [f"{where} {name}" for where, name, given in calls(folder) if is_unsafe(name, given)]
    assert found == []


def test_the_reader_of_calls_sees_them():
    for line in ("pickle.load(f)", "torch.load(f)", "np.load(f)", "a(trust_remote_code=True)", "t.extractall()",
                 "subprocess.run(c, shell=True)", "exec(x)"):  # fmt: skip
        call = ast.parse(line, mode="eval").body
        assert is_unsafe(ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}), line
