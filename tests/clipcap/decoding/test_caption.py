"""From embeddings to captions: order, batches, text, bad input."""

import numpy as np
import pytest
import torch

from clipcap.config import CaptionConfig, LanguageModelConfig
from clipcap.decoding.caption import generate, generate_many, in_precision
from clipcap.decoding.published import published_beam_search
from clipcap.errors import ConfigError, EmbeddingError, ModelError
from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper


@pytest.fixture(scope="module")
def captioner():
    torch.manual_seed(0)
    sizes = LanguageModelConfig(layers=2, heads=2, hidden_size=16, vocab_size=280)
    model, tokenizer = new_language_model(sizes, ["a small dog runs", "a dog sits"] * 3, positions=32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    settings = CaptionerSettings(clip_dim=6, hidden_size=16, prefix_length=3, eos_id=tokenizer.eos_token_id)
    return Captioner(build_mapper(settings, 6, 16), model, tokenizer, settings).eval()


@pytest.fixture(scope="module")
def embeddings():
    return np.random.default_rng(0).normal(size=(16, 6)).astype(np.float16)


CONFIG = CaptionConfig(beam_size=3, max_new_tokens=10, batch_size=16)


def test_batch_size_changes_nothing(captioner, embeddings):
    together = generate(captioner, embeddings, CONFIG)
    for size in (1, 5):
        apart = generate(captioner, embeddings, CONFIG.model_copy(update={"batch_size": size}))
        assert [c.text for c in apart] == [c.text for c in together]
        assert [c.tokens for c in apart] == [c.tokens for c in together]
        assert [c.log_probability for c in apart] == pytest.approx([c.log_probability for c in together], abs=1e-4)
    assert len({c.text for c in together}) > 3


def test_array_and_tensor_in_either_precision(captioner, embeddings):
    from_array = generate(captioner, embeddings, CONFIG)
    assert generate(captioner, torch.from_numpy(embeddings), CONFIG) == from_array
    assert generate(captioner, embeddings.astype(np.float32), CONFIG) == from_array


def test_log_probability_is_the_loss_of_its_tokens(captioner, embeddings):
    """Through the training loss, which shares no code with the search."""
    from clipcap.decoding.beam import beam_search

    config = CONFIG.model_copy(update={"max_new_tokens": 10})
    for row, caption in zip(embeddings, generate(captioner, embeddings, config), strict=True):
        one = torch.tensor(row)[None]
        ((hypothesis,),) = beam_search(
            captioner.language_model,
            captioner.prefix(one),
            eos_id=captioner.settings.eos_id,
            beam_size=3,
            max_new_tokens=10,
        )
        ids = [*hypothesis.tokens, captioner.settings.eos_id][: hypothesis.length]
        with torch.no_grad():
            loss = captioner.loss(one, torch.tensor([ids]), reduction="sum").item()
        assert caption.log_probability == pytest.approx(-loss, abs=1e-3)
        assert caption.tokens == len(ids)


def test_text_is_clean(captioner, embeddings):
    for caption in generate(captioner, embeddings, CONFIG):
        assert caption.text == " ".join(caption.text.split()) and "<eos>" not in caption.text


def test_several_captions_best_first(captioner, embeddings):
    many = generate_many(captioner, embeddings, CONFIG, num_captions=3)
    assert {len(captions) for captions in many} <= {1, 2, 3} and max(map(len, many)) == 3
    assert all(len({c.text for c in captions}) == len(captions) for captions in many)  # no text twice
    best = generate(captioner, embeddings, CONFIG)
    assert [captions[0].text for captions in many] == [caption.text for caption in best]
    for captions in many:
        scores = [c.log_probability / c.tokens for c in captions]
        assert scores == sorted(scores, reverse=True)
    with pytest.raises(ModelError, match="beam_size 3"):
        generate_many(captioner, embeddings, CONFIG, num_captions=4)


def test_nothing_in_nothing_out(captioner):
    assert generate(captioner, np.zeros((0, 6), np.float16), CONFIG) == []


def test_dropout_is_off_and_the_mode_is_given_back(captioner, embeddings):
    expected = generate(captioner, embeddings, CONFIG)
    captioner.train()
    assert generate(captioner, embeddings, CONFIG) == expected
    assert captioner.training
    captioner.eval()


def test_embeddings_that_cannot_be_captioned(captioner, embeddings):
    with pytest.raises(EmbeddingError, match=r"\(images, 6\).*\(16, 5\)"):
        generate(captioner, embeddings[:, :5], CONFIG)
    bad = embeddings.copy()
    bad[4, 2] = np.nan
    with pytest.raises(EmbeddingError, match="first at row 4"):
        generate(captioner, bad, CONFIG)


def test_reduced_precision_is_a_copy_that_is_kept_until_the_weights_change(captioner, embeddings):
    before = {name: tensor.clone() for name, tensor in captioner.language_model.state_dict().items()}
    half = CONFIG.model_copy(update={"precision": "bfloat16"})
    generate(captioner, embeddings, half)
    copy = in_precision(captioner.language_model, captioner.device, "bfloat16")
    assert copy is in_precision(captioner.language_model, captioner.device, "bfloat16")
    assert copy is not captioner.language_model and next(copy.parameters()).dtype == torch.bfloat16
    assert in_precision(captioner.language_model, captioner.device, "auto") is captioner.language_model
    for name, tensor in captioner.language_model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        next(captioner.language_model.parameters()).mul_(1.0)
    assert copy is not in_precision(captioner.language_model, captioner.device, "bfloat16")


def test_sampling_is_the_same_for_a_seed_wherever_an_image_stands(captioner, embeddings):
    config = CONFIG.model_copy(update={"method": "sample", "seed": 3, "batch_size": 5})
    found = generate_many(captioner, embeddings, config, num_captions=4)
    turned = generate_many(captioner, embeddings[::-1].copy(), config.model_copy(update={"batch_size": 16}), 4)
    assert [[c.token_ids for c in image] for image in found] == [[c.token_ids for c in image] for image in turned[::-1]]
    other = generate_many(captioner, embeddings, config.model_copy(update={"seed": 4}), num_captions=4)
    assert found != other
    for image in found:
        assert [c.score for c in image] == sorted((c.score for c in image), reverse=True)


def test_the_published_search_keeps_the_token_that_ends_a_caption(captioner, embeddings):
    """A published model ends with a full stop, which belongs to the text."""
    word = captioner.tokenizer.encode("a", add_special_tokens=False)[-1]
    settings = captioner.settings
    ending = settings.model_copy(update={"eos_id": word, "keep_eos": True})
    config = CONFIG.model_copy(update={"method": "published"})
    try:
        captioner.settings = ending
        kept = generate(captioner, embeddings, config)
        captioner.settings = ending.model_copy(update={"keep_eos": False})
        dropped = generate(captioner, embeddings, config)
    finally:
        captioner.settings = settings
    finished = [i for i, c in enumerate(kept) if c.token_ids[-1] == word]
    for i in finished:
        assert kept[i].token_ids == dropped[i].token_ids and kept[i].text != dropped[i].text
    expected = published_beam_search(
        captioner.language_model, captioner.prefix(torch.as_tensor(embeddings)), stop_id=word, beam_size=3,
        max_new_tokens=CONFIG.max_new_tokens,
    )  # fmt: skip
    assert [list(c.token_ids) for c in dropped] == [h[0].tokens + [word] * h[0].is_finished for h in expected]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"method": "published", "min_new_tokens": 3}, "knows no rules"),
        ({"rerank": 0.5}, "needs the encoder"),
    ],
)
def test_ways_that_do_not_go_together(captioner, embeddings, fields, error):
    with pytest.raises(ConfigError, match=error):
        generate(captioner, embeddings, CONFIG.model_copy(update=fields))
