"""Self-critical training against REINFORCE written as a loop, and on tasks where it must succeed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from clipcap.config import LanguageModelConfig, SelfCriticalConfig
from clipcap.decoding.hypotheses import Hypothesis
from clipcap.errors import DataError
from clipcap.metrics.cider import END, CiderD
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import MlpMapper
from clipcap.training.self_critical import SelfCritical

CAPTIONS = [
    "a red circle above a blue square",
    "two green dots",
    "a small yellow star on the left",
    "three tiny dogs near a tree",
]
REFERENCES = [[text] for text in CAPTIONS]
IMAGES = torch.eye(4, 6)
LONGEST = 9
TINY = LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=24, vocab_size=400, dropout=0.3)


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(tuned=True, captions=CAPTIONS):
    torch.manual_seed(0)
    model, tokenizer = new_language_model(TINY, captions * 3, positions=40)
    settings = CaptionerSettings(
        clip_dim=6, hidden_size=24, prefix_length=2, mapper_hidden=16, tuned=tuned, eos_id=tokenizer.eos_token_id
    )
    return Captioner(MlpMapper(6, 24, 2, hidden_units=16), model, tokenizer, settings)


def ids(captioner, text, end=True):
    return captioner.tokenizer(text)["input_ids"] + [captioner.settings.eos_id] * end


def pretrained(tuned=True, always_ends=True, captions=CAPTIONS, steps=70):
    """Writes any of the captions, for any image; then ends, or only every other time and else begins another one."""
    captioner = fresh(tuned=True, captions=captions)
    optimizer = torch.optim.Adam(captioner.parameters(), lr=1e-2)
    texts = [ids(captioner, text) for text in captions]
    if not always_ends:
        texts += [ids(captioner, f"{text} {other}")[:LONGEST] for text, other in pairwise([*CAPTIONS, CAPTIONS[0]])]
    tokens = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, texts)), batch_first=True, padding_value=-100)
    for step in range(steps):
        optimizer.zero_grad()
        captioner.loss(IMAGES.roll(step, dims=0).repeat(len(texts) // 4, 1), tokens).backward()
        optimizer.step()
    captioner.zero_grad()
    if tuned:
        return captioner
    settings = captioner.settings.model_copy(update={"tuned": False})
    return Captioner(captioner.mapper, captioner.language_model, captioner.tokenizer, settings)


def learner_of(captioner, samples=5, references=REFERENCES):
    return SelfCritical(captioner, references, SelfCriticalConfig(samples=samples), LONGEST)


def gradients(captioner):
    return {name: p.grad.clone() for name, p in captioner.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_reinforce_written_as_a_loop():
    """One caption and one token at a time, without padding, cache or batch; the rewards from the public scorer."""
    captioner = pretrained()
    learner = learner_of(captioner)
    drawn, rewards = [], []
    learner_rewards = learner.rewards

    def remember(captions, rows):
        drawn.extend(zip(captions, rows, strict=True))
        rewards.append(learner_rewards(captions, rows))
        return rewards[-1]

    learner.rewards = remember
    images, rows = IMAGES[[2, 0, 3]], [2, 0, 3]
    loss, mean = learner.loss(images, rows, [5, 6, 7])
    loss.backward()
    found = gradients(captioner)
    assert len({tuple(h.tokens) for h, _ in drawn}) > 3 and len({len(h.tokens) for h, _ in drawn}) > 1
    assert mean == pytest.approx(float(rewards[0].mean()))

    captioner.zero_grad()
    captioner.eval()
    total, tokens = torch.zeros(()), 0
    eos = captioner.settings.eos_id
    for index, (hypothesis, row) in enumerate(drawn):
        first = index // 5 * 5
        own = float(rewards[0][index])
        others = [float(rewards[0][i]) for i in range(first, first + 5) if i != index]
        prefix = captioner.prefix(IMAGES[row : row + 1])
        log_probability = torch.zeros(())  # of the whole caption
        written = hypothesis.tokens + ([eos] if hypothesis.is_finished else [])
        for place, token in enumerate(written):
            words = captioner.language_model.get_input_embeddings()(torch.tensor([written[:place]], dtype=torch.long))
            logits = captioner.language_model(inputs_embeds=torch.cat([prefix, words], dim=1)).logits[0, -1]
            log_probability = log_probability + logits.log_softmax(dim=0)[token]
        assert log_probability.item() == pytest.approx(hypothesis.log_probability, abs=1e-4)
        total = total - (own - np.mean(others)) * log_probability
        tokens += len(written)
    (total / tokens).backward()
    assert loss.item() == pytest.approx(total.item() / tokens, abs=1e-5)
    expected = gradients(captioner)
    assert found.keys() == expected.keys()
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name


def test_rewards_are_cider_of_the_tokenized_texts_with_their_ends():
    captioner = fresh()
    learner = learner_of(captioner, references=[["Two green dots.", "  ", "Two dots, green"], ["a tree"], ["dots"]])
    scorer = CiderD(
        [
            [["two", "green", "dots", END], ["two", "dots", "green", END]],
            [["a", "tree", END]],
            [["dots", END]],
        ]
    )
    captions = [written(captioner, "two green, dots.", True), written(captioner, "two green", False)]
    expected = scorer.score([["two", "green", "dots", END], ["two", "green"]], [0, 0])
    assert learner.rewards(captions, [0, 0]).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def written(captioner, text, is_finished):
    tokens = ids(captioner, text, end=False)
    return Hypothesis(tokens, 0.0, len(tokens) + is_finished, 0.0, is_finished)


def test_stopping_in_the_middle_costs_what_it_would_not_without_the_end():
    """Without the end in it, the reward would call "a dog in a" nearly as good, and not ending as good as ending."""
    captioner = fresh()
    references = [["a dog in a park", "a dog in a field", "a dog in a yard"], ["two cats", "three cats"], ["a tree"]]
    learner = learner_of(captioner, references=references)
    captions = [written(captioner, "a dog in a yard", True), written(captioner, "a dog in a yard", False),
                written(captioner, "a dog in a", True)]  # fmt: skip
    whole, endless, cut = learner.rewards(captions, [0, 0, 0]).tolist()
    words = [[text.split() for text in image] for image in references]
    texts = [captioner.tokenizer.decode(caption.tokens).split() for caption in captions]
    plain_whole, plain_endless, plain_cut = CiderD(words).score(texts, [0, 0, 0])
    assert plain_endless == plain_whole and endless < whole
    assert plain_cut > plain_whole  # the trap
    assert cut < whole


def test_equal_rewards_give_no_gradient():
    captioner = pretrained()
    learner = learner_of(captioner, references=[["nothing of this was ever drawn"], ["zebra"], ["zebra"], ["zebra"]])
    learner.rewards = lambda captions, rows: torch.full((len(captions),), 2.5, dtype=torch.float64)
    loss, mean = learner.loss(IMAGES, range(4), [0, 1, 2, 3])
    loss.backward()
    assert mean == 2.5 and loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(captioner).values())


def test_equal_seeds_draw_equal_captions_and_others_do_not():
    captioner = pretrained()
    learner = learner_of(captioner)
    torch.manual_seed(1)
    first = learner.loss(IMAGES, range(4), [1, 2, 3, 4])
    state = torch.get_rng_state()
    again = learner.loss(IMAGES, range(4), [1, 2, 3, 4])
    other = learner.loss(IMAGES, range(4), [5, 6, 7, 8])
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)  # the trainer's own random state is not used


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_is_dropped_and_the_mode_is_given_back(mode):
    captioner = pretrained()
    learner = learner_of(captioner)
    captioner.train(not mode)
    expected = learner.loss(IMAGES, range(4), [1, 2, 3, 4])[0]
    captioner.train(mode)
    loss = learner.loss(IMAGES, range(4), [1, 2, 3, 4])[0]
    assert captioner.training is mode and captioner.language_model.training is mode
    assert torch.equal(loss, expected)
    with pytest.raises(DataError):
        learner.loss(IMAGES[:1], [4], [0])
    assert captioner.training is mode


def test_a_frozen_language_model_gets_no_gradients():
    captioner = pretrained(tuned=False)
    learner_of(captioner).loss(IMAGES, range(4), [1, 2, 3, 4])[0].backward()
    assert all(p.grad is None for p in captioner.language_model.parameters())
    assert all(p.grad is not None and p.grad.any() for p in captioner.mapper.parameters())


def test_under_autocast_the_weights_still_get_their_gradients():
    """Autocast keeps the weights that it casts: those of the sampling pass must not be what gradients flow through."""
    captioner = pretrained()
    learner = learner_of(captioner)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = learner.loss(IMAGES, range(4), [1, 2, 3, 4])
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in captioner.parameters())


def learn(captioner, steps, rate, samples=16):
    """Mean reward of each step, and the share of finished captions."""
    learner = learner_of(captioner, samples)
    finished = []
    learner_rewards = learner.rewards

    def watch(captions, rows):
        finished.append(float(np.mean([caption.is_finished for caption in captions])))
        return learner_rewards(captions, rows)

    learner.rewards = watch
    optimizer = torch.optim.Adam([p for p in captioner.parameters() if p.requires_grad], lr=rate)
    rewards = []
    for step in range(steps):
        optimizer.zero_grad()
        loss, mean = learner.loss(IMAGES, range(4), [1000 * step + image for image in range(4)])
        loss.backward()
        optimizer.step()
        rewards.append(mean)
    return rewards, finished


@pytest.mark.parametrize("tuned", [True, False])
def test_it_finds_out_by_reward_alone_which_image_has_which_caption(tuned):
    rewards, _ = learn(pretrained(tuned), steps=120 if tuned else 60, rate=2e-3 if tuned else 1e-2)
    before, after = np.mean(rewards[:5]), np.mean(rewards[-5:])
    assert before < 4.5  # three of four captions are another image's
    assert after > before + 4


def test_captions_learn_to_end():
    """Half of the captions run on into another one, up to the greatest length."""
    rewards, finished = learn(pretrained(always_ends=False), steps=120, rate=2e-3)

    assert np.mean(finished[:3]) < 0.75 and np.mean(finished[-5:]) > 0.9
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 2


@pytest.mark.parametrize("has_end", [True, False])
def test_only_with_the_end_in_the_reward_captions_do_not_learn_to_stop_in_the_middle(has_end):
    """No two references agree on their last word, so by words alone "a dog in a" is the best caption of all."""
    cut_caption, lasts = "a dog in a", ["park", "field", "yard", "street", "box", "car"]
    others = [[f"a {animal} in a {last}"] for animal in ("cat", "bird") for last in lasts]  # whose words are common
    references = [[f"{cut_caption} {last}" for last in lasts], *others]
    captioner = pretrained(captions=[cut_caption, cut_caption, *references[0]], steps=60)
    learner = learner_of(captioner, samples=16, references=references)
    plain = CiderD([[text.split() for text in image] for image in references])
    with_end, cut = learner.rewards, []

    def watch(drawn, rows):
        texts = [captioner.tokenizer.decode(caption.tokens).split() for caption in drawn]
        cut.append(float(np.mean([text[-1:] == ["a"] for text in texts])))
        return with_end(drawn, rows) if has_end else torch.from_numpy(plain.score(texts, rows))

    learner.rewards = watch
    optimizer = torch.optim.Adam(captioner.parameters(), lr=2e-3)
    for step in range(60):
        optimizer.zero_grad()
        learner.loss(IMAGES[[0, 0, 0]], [0, 0, 0], [3 * step, 3 * step + 1, 3 * step + 2])[0].backward()
        optimizer.step()
    assert 0.05 < cut[0] < 0.4
    assert np.mean(cut[-5:]) < 0.05 if has_end else np.mean(cut[-5:]) > 0.8
