"""The captioner's prefix and loss against plain loops; what a frozen language model must not do."""

import pytest
import torch

from clipcap.config import LanguageModelConfig
from clipcap.errors import EmbeddingError, ShapeError
from clipcap.model.captioner import Captioner, CaptionerSettings, check_embeddings
from clipcap.model.language_model import new_language_model
from clipcap.model.mapping import build_mapper

CLIP_DIM, P, HIDDEN = 6, 3, 16


def make(tuned=True, normalize=True, dropout=0.0, **more):
    torch.manual_seed(0)
    sizes = LanguageModelConfig(layers=2, heads=2, hidden_size=HIDDEN, vocab_size=260, dropout=dropout)
    model, tokenizer = new_language_model(sizes, ["a b"], positions=32)
    settings = CaptionerSettings(
        clip_dim=CLIP_DIM,
        hidden_size=HIDDEN,
        prefix_length=P,
        mapper_hidden=8,
        normalize=normalize,
        tuned=tuned,
        eos_id=0,
        **more,
    )
    return Captioner(build_mapper(settings, CLIP_DIM, HIDDEN, settings.clip_tokens), model, tokenizer, settings)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    tokens = torch.tensor([[5, 9, 0, -100, -100], [7, 0, -100, -100, -100], [3, 4, 6, 8, 0]])
    return torch.randn(3, CLIP_DIM), tokens


def plain_losses(captioner, embeddings, tokens):
    """One caption at a time, one token at a time, without padding: -log p(token | prefix, tokens before)."""
    table = captioner.language_model.transformer.wte.weight
    losses = []
    for embedding, row in zip(embeddings, tokens, strict=True):
        prefix = captioner.mapper((embedding / embedding.norm())[None])[0]
        before = [t for t in row.tolist() if t != -100]
        for index, token in enumerate(before):
            inputs = torch.cat([prefix, table[before[:index]]])[None]
            logits = captioner.language_model(inputs_embeds=inputs).logits[0, -1]
            losses.append(-torch.log_softmax(logits, -1)[token])
    return torch.stack(losses)


def test_loss_equals_a_loop_over_tokens(batch):
    captioner = make().eval()
    with torch.no_grad():
        expected = plain_losses(captioner, *batch)
        assert len(expected) == 10
        torch.testing.assert_close(captioner.loss(*batch), expected.mean())
        torch.testing.assert_close(captioner.loss(*batch, reduction="sum"), expected.sum())


def test_the_real_token_zero_is_learned(batch):
    """The published code ignores id 0 wherever it stands; here only -100 is padding."""
    embeddings, tokens = batch
    captioner = make().eval()
    with torch.no_grad():
        without = captioner.loss(embeddings, tokens.masked_fill(tokens == 0, -100), reduction="sum")
        assert captioner.loss(embeddings, tokens, reduction="sum") > without + 1


def test_padding_changes_nothing(batch):
    embeddings, tokens = batch
    captioner = make().eval()
    wider = torch.cat([tokens, torch.full((3, 4), -100)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(captioner.loss(embeddings, wider), captioner.loss(embeddings, tokens))


def test_label_smoothing_gives_mass_to_the_others(batch):
    captioner = make().eval()
    embeddings, tokens = batch
    one = tokens[1:2, :1]
    with torch.no_grad():
        logits = captioner.language_model(inputs_embeds=captioner.prefix(embeddings[1:2])).logits[0, -1]
        log_p = torch.log_softmax(logits, -1)
        expected = -(0.9 * log_p[one[0, 0]] + 0.1 * log_p.mean())
        torch.testing.assert_close(captioner.loss(embeddings[1:2], one, label_smoothing=0.1), expected)


def test_normalisation_is_part_of_the_model(batch):
    embeddings, _ = batch
    with torch.no_grad():
        normalising, plain = make(normalize=True), make(normalize=False)
        torch.testing.assert_close(normalising.prefix(embeddings * 7), normalising.prefix(embeddings))
        torch.testing.assert_close(
            normalising.prefix(embeddings.half()), normalising.prefix(embeddings), atol=1e-3, rtol=0
        )
        assert not torch.allclose(plain.prefix(embeddings * 7), plain.prefix(embeddings))


def test_a_frozen_language_model_gets_no_gradients_and_no_dropout(batch):
    captioner = make(tuned=False, dropout=0.5).train()
    assert captioner.mapper.training and not any(m.training for m in captioner.language_model.modules())
    loss = captioner.loss(*batch)
    loss.backward()
    assert all(p.grad is None for p in captioner.language_model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in captioner.mapper.parameters())
    assert captioner.loss(*batch).item() == loss.item()


def test_a_tuned_language_model_gets_both(batch):
    captioner = make(tuned=True, dropout=0.5).train()
    loss = captioner.loss(*batch)
    loss.backward()
    assert all(p.grad is not None for p in captioner.language_model.parameters())
    assert captioner.loss(*batch).item() != loss.item()


@pytest.mark.parametrize("shape", [(2, 5), (6,), (2, 1, 6)])
def test_an_embedding_of_another_shape_is_named(shape):
    with pytest.raises(ShapeError, match=rf"\(batch, 6\), got \({shape[0]},"):
        make().prefix(torch.zeros(shape))


@pytest.mark.parametrize("mapper", ["linear", "transformer"])
def test_patch_tokens_are_normalised_each_by_itself(mapper):
    captioner = make(mapper=mapper, mapper_heads=2, mapper_layers=1, features="tokens", clip_tokens=P)
    tokens = torch.randn(2, P, CLIP_DIM)
    expected = captioner.mapper(tokens / tokens.square().sum(-1, keepdim=True).sqrt())
    louder = tokens * torch.tensor([1.0, 5.0, 0.2])[:, None]
    torch.testing.assert_close(captioner.prefix(louder), expected)
    assert expected.shape == (2, P, HIDDEN)


@pytest.mark.parametrize("shape", [(2, CLIP_DIM), (2, P + 1, CLIP_DIM), (2, P, 5), (2, 1, P, CLIP_DIM)])
def test_patch_tokens_of_another_shape_are_named(shape):
    captioner = make(mapper="linear", features="tokens", clip_tokens=P)
    with pytest.raises(ShapeError, match=rf"\(batch, 3, 6\), got \({shape[0]},"):
        captioner.prefix(torch.zeros(shape))
    with pytest.raises(EmbeddingError, match=r"\(images, 3, 6\), got float32"):
        check_embeddings(torch.zeros(shape), captioner.settings.input_shape, "here")


def test_captions_and_embeddings_must_pair_up(batch):
    with pytest.raises(ShapeError, match="3 embeddings"):
        make().loss(batch[0], batch[1][:2])


def test_embeddings_that_cannot_be_used():
    good = torch.zeros(4, 6)
    check_embeddings(good, (6,), "here")
    bad = good.clone()
    bad[2, 1] = float("nan")
    bad[3, 0] = float("inf")
    with pytest.raises(EmbeddingError, match="here: 2 of 4 embeddings are not finite, first at row 2"):
        check_embeddings(bad, (6,), "here")
    with pytest.raises(EmbeddingError, match=r"\(images, 5\), got float32 \(4, 6\)"):
        check_embeddings(good, (5,), "here")
    with pytest.raises(EmbeddingError, match="got int64"):
        check_embeddings(good.long(), (6,), "here")
