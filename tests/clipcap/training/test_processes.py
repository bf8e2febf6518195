"""Two processes on the CPU that train together, against one process that does the work of both."""

import json
import os
import subprocess
import sys

import pytest
import torch

from clipcap.config import TrainConfig
from clipcap.model.checkpoint import load_captioner
from clipcap.training.train import train

SCRIPT = """
import sys, json, torch
import numpy as np
from pathlib import Path
import clipcap
from clipcap.config import TrainConfig
from clipcap.training.examples import Pairs
from clipcap.training.processes import Launched
from clipcap.training.train import train
torch.set_num_threads(1)
job = json.loads(sys.argv[1])
pairs = Pairs(np.array(job["embeddings"], np.float32), job["captions"])
processes = Launched(use_cpu=True)
assert processes.count == 2
train(pairs, pairs, TrainConfig.model_validate(job["config"]), Path(job["folder"]), model_id="toy-mlp-0",
      encoder="e", encoder_hash="h", processes=processes)
processes.end()
"""


def test_two_processes_equal_one_with_twice_the_batches(tmp_path):
    """Without dropout and noise the gradients are the same sums, so the weights are the same up to rounding."""
    import numpy as np

    from clipcap.training.examples import Pairs

    rng = np.random.default_rng(0)
    words = ["a", "red", "blue", "dog", "cat", "runs", "sits", "on", "the", "grass"]
    captions = [[" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(2)] for _ in range(15)]
    pairs = Pairs(rng.standard_normal((15, 6)).astype(np.float32), captions)
    config = TrainConfig.model_validate(
        dict(
            prefix_length=2, mapper_hidden=8, epochs=3, batch_size=4, learning_rate=5e-3, val_captions=15,
            select="cider",
            language_model=dict(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300, dropout=0.0),
        )
    )  # fmt: skip
    job = {
        "embeddings": pairs.embeddings.tolist(), "captions": captions, "config": config.model_dump(),
        "folder": str(tmp_path / "two"),
    }  # fmt: skip
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         json.dumps(job)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    alone = config.model_copy(update={"accumulate": 2})
    train(pairs, pairs, alone, tmp_path / "one", model_id="toy-mlp-0", encoder="e", encoder_hash="h")

    two, one = load_captioner(tmp_path / "two").state_dict(), load_captioner(tmp_path / "one").state_dict()
    torch.testing.assert_close(two, one, atol=2e-5, rtol=1e-4)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "training.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert len(lines[0]) == len(lines[1]) == 3 * 4  # 30 captions are 8 batches, 4 steps of two
    for a, b in zip(*lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
