"""A training that was killed and resumed gives the weights of one that ran through, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from clipcap.config import LanguageModelConfig, TrainConfig
from clipcap.model.checkpoint import weights_hash
from clipcap.training.checkpoints import Checkpoints
from clipcap.training.examples import Pairs
from clipcap.training.train import train

WORDS = ["a", "red", "blue", "green", "dog", "cat", "bird", "sits", "runs", "on", "under", "the", "old", "grass"]
NAMES = dict(model_id="toy-mlp-00000000", encoder="an encoder", encoder_hash="abc")


def pairs(images=24, seed=0):
    rng = np.random.default_rng(seed)
    captions = [[" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(3)] for _ in range(images)]
    return Pairs(rng.standard_normal((images, 8)).astype(np.float16), captions)


def config(**fields):
    """Everything random that there is: dropout, noise, a shuffled order."""
    language_model = LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300, dropout=0.2)
    settings = dict(
        prefix_length=2, mapper_hidden=8, epochs=4, batch_size=5, learning_rate=5e-3, embedding_noise=0.5, ema=0.9,
        label_smoothing=0.1, validate_every=7, checkpoint_every_s=0.0, weight_decay=0.01,
    )  # fmt: skip
    return TrainConfig(**{**settings, "language_model": language_model, **fields})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stop(Exception):
    pass


def train_until(step, folder, resume, settings, phase="captions"):
    """Stops like a kill: nothing is written after the progress line of ``step``."""

    def on_step(line):
        if (line.phase, line.step) == (phase, step):
            raise Stop

    train(pairs(), pairs(6, 1), settings, folder, **NAMES, resume_folder=resume, on_step=on_step)


def history(folder):
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_s")} for line in lines]


VARIANTS = {
    "plain": {},
    "budget": dict(tokens_per_batch=60, accumulate=2),
    "bfloat16": dict(precision="bfloat16"),
    "by cider": dict(val_captions=6, select="cider", patience=3),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_twice_and_resumed_equals_uninterrupted(tmp_path, variant):
    settings = config(**VARIANTS[variant])
    train(pairs(), pairs(6, 1), settings, tmp_path / "whole", **NAMES)
    for step in (9, 17):  # early stopping cannot come before step 28
        with pytest.raises(Stop):
            train_until(step, tmp_path / "parts", tmp_path / "resume", settings)
    assert (tmp_path / "resume" / "last.pt").is_file() and not (tmp_path / "parts").exists()
    result = train(pairs(), pairs(6, 1), settings, tmp_path / "parts", **NAMES, resume_folder=tmp_path / "resume")
    assert weights_hash(tmp_path / "parts") == weights_hash(tmp_path / "whole")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert result.best_step


def test_it_really_resumes(tmp_path):
    with pytest.raises(Stop):
        train_until(20, tmp_path / "m", tmp_path / "resume", config())
    seen = []
    train(pairs(), pairs(6, 1), config(), tmp_path / "m", **NAMES, resume_folder=tmp_path / "resume",
          on_step=seen.append)  # fmt: skip
    assert seen[0].step == 20  # its checkpoint came after step 19


def test_a_reward_phase_resumes_too(tmp_path):
    """Stopped in the first phase, then twice in the second: its samples are the same ones again."""
    reward = dict(epochs=2, batch_size=4, samples=2, learning_rate=1e-3)
    settings = config(epochs=2, val_captions=6, select="cider", max_tokens=12, self_critical=reward)
    train(pairs(), pairs(6, 1), settings, tmp_path / "whole", **NAMES)
    for phase, step in (("captions", 9), ("reward", 3), ("reward", 8)):
        with pytest.raises(Stop):
            train_until(step, tmp_path / "parts", tmp_path / "resume", settings, phase)
    train(pairs(), pairs(6, 1), settings, tmp_path / "parts", **NAMES, resume_folder=tmp_path / "resume")
    assert weights_hash(tmp_path / "parts") == weights_hash(tmp_path / "whole")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert [line["step"] for line in history(tmp_path / "whole") if line["phase"] == "reward"] == list(range(1, 13))


@pytest.mark.parametrize("damage", ["other settings", "truncated", "no best"])
def test_a_checkpoint_that_is_not_of_this_training_is_not_used(tmp_path, damage, caplog):
    settings = config()
    with pytest.raises(Stop):
        train_until(20, tmp_path / "m", tmp_path / "resume", settings)
    if damage == "other settings":
        settings = config(seed=1)
    elif damage == "truncated":
        last = tmp_path / "resume" / "last.pt"
        last.write_bytes(last.read_bytes()[:-500])
    else:
        next((tmp_path / "resume").glob("best-*.pt")).unlink()
    seen = []
    train(pairs(), pairs(6, 1), settings, tmp_path / "m", **NAMES, resume_folder=tmp_path / "resume",
          on_step=seen.append)  # fmt: skip
    assert seen[0].step == 1 and "starting anew" in caplog.text


def test_one_best_file_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save({"step": 1}, [torch.ones(2)], 1)
    checkpoints.save({"step": 2}, [torch.ones(2) * 2], 2)
    checkpoints.save({"step": 3}, [torch.ones(2) * 2], 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["best-2.pt", "last.pt"]
    state, best = Checkpoints(tmp_path, "key").load()
    assert state["step"] == 3 and torch.equal(best[0], torch.ones(2) * 2)


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {room!r})
torch.set_num_threads(1)
import importlib.util
spec = importlib.util.spec_from_file_location("resume", {file!r})
resume = importlib.util.module_from_spec(spec)
spec.loader.exec_module(resume)
folder = Path({folder!r})
print("ready", flush=True)
resume.train(resume.pairs(), resume.pairs(6, 1), resume.config(epochs=12), folder / "parts", **resume.NAMES,
             resume_folder=folder / "resume")
"""


def test_killed_with_sigkill_and_resumed_equals_uninterrupted(tmp_path):
    """Wherever the kill falls: within a step, while a checkpoint is written, in a validation."""
    train(pairs(), pairs(6, 1), config(epochs=12), tmp_path / "whole", **NAMES)
    script = SCRIPT.format(room=os.path.dirname(__file__), file=__file__, folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills, chance = 0, random.Random(5)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        process.stdout.readline()
        first = (tmp_path / "resume" / "last.pt").stat().st_mtime_ns if kills else 0
        while process.poll() is None:  # until it has got further than the one before, and then a little more
            last = tmp_path / "resume" / "last.pt"
            if kills < 3 and last.is_file() and last.stat().st_mtime_ns > first:
                time.sleep(chance.uniform(0.05, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills >= 1 and process.returncode == 0
    assert weights_hash(tmp_path / "parts") == weights_hash(tmp_path / "whole")
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
