"""How a model learns and how it writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipcap.config.base import Positive, Precision, Section, Share


class LanguageModelConfig(Section):
    name: str = "gpt2"
    """A causal language model: hub name, folder ("./…", relative to the config), .gguf file, or "scratch"."""
    tune: bool = False
    """Whether the language model learns too; one from scratch always does."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of low-rank adapters (LoRA, Hu et al. 2021) that learn while the model itself stays frozen; 0 has none."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_dropout: Share = 0.0
    """Dropout of what the adapters read."""
    lora_targets: list[str] = []
    """Layers that get adapters, for example ["q_proj", "v_proj"]; empty: all linear ones but the vocabulary head."""
    layers: Positive = 4
    """Scratch only: transformer blocks."""
    heads: Positive = 4
    """Scratch only: attention heads."""
    hidden_size: Positive = 256
    """Scratch only: width."""
    vocab_size: Annotated[int, Field(ge=260)] = 4000
    """Scratch only: upper bound for the tokenizer trained on the captions."""
    lowercase: bool = True
    """Scratch only: the tokenizer lower-cases."""
    dropout: Share = 0.1
    """Scratch only: residual, attention and embedding dropout."""

    @model_validator(mode="after")
    def _fits(self) -> LanguageModelConfig:
        if self.lora_rank and (self.tune or self.name == "scratch"):
            what = "tune = true" if self.tune else 'name = "scratch"'
            raise ValueError(f"lora_rank is for a frozen language model, and {what} trains all of it: choose one")
        return self


class SelfCriticalConfig(Section):
    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes over the images after the ordinary training, rewarded with CIDEr-D, the end a word of it; 0 has none."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Constant after a short warm-up."""
    batch_size: Positive = 16
    """Images in a step."""
    samples: Annotated[int, Field(ge=2)] = 5
    """Captions sampled for each image; each one's baseline is the mean reward of the others (Luo 2020)."""


class TrainConfig(Section):
    mapper: Literal["mlp", "transformer", "linear"] = "mlp"
    """The mapping network (paper, section 3.2); "linear" is for patch tokens: each becomes a prefix vector."""
    prefix_length: Positive = 10
    """Vectors given to the language model."""
    clip_length: Positive = 10
    """Transformer mapper only: vectors that the embedding is expanded to."""
    mapper_layers: Positive = 8
    """Transformer mapper only: layers."""
    mapper_heads: Positive = 8
    """Transformer mapper only: attention heads."""
    mapper_hidden: Annotated[int, Field(ge=0)] = 0
    """MLP mapper only: hidden units; 0 is the published prefix_length * hidden_size / 2."""
    normalize: bool = True
    """L2-normalise embeddings; stored with the model, so that captioning does the same."""
    standardize: bool = True
    """Learn on embeddings of mean 0 and variance 1; folded into the mapper's first layer, the layout stays."""
    embedding_noise: Annotated[float, Field(ge=0.0)] = 0.0
    """Standard deviation of Gaussian noise, times 1/sqrt(clip_dim), added to training embeddings."""
    epochs: Positive = 10
    """Passes over the captions."""
    batch_size: Positive = 40
    """Captions in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Peak learning rate of AdamW (weight decay below, eps 1e-6)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5000
    """Linear warm-up; at most a tenth of all steps."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay after the warm-up."""
    label_smoothing: Share = 0.0
    """Mass given to other tokens."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 does not clip."""
    max_tokens: Positive = 64
    """Captions are cut after this many tokens, end-of-text included."""
    seed: int = 0
    """Of weights, order and dropout."""
    precision: Precision = "auto"
    """Of the forward pass (autocast); "auto" is bfloat16 on a GPU that has it, else float32. Weights stay float32."""
    tokens_per_batch: Annotated[int, Field(ge=0)] = 0
    """Budget of a batch in positions, prefix and padding included, instead of batch_size; 0 counts captions."""
    accumulate: Positive = 1
    """Batches whose gradients are added before a step."""
    processes: Positive = 1
    """Processes that train together, one for each GPU (or all on the CPU); a step takes a batch from each."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the moving average of the weights, which is then what is validated and stored; 0 has none."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0 validates after each epoch."""
    val_captions: Annotated[int, Field(ge=0)] = 0
    """Images of val that are captioned (greedily) and scored with CIDEr at each validation; 0 has the loss alone."""
    select: Literal["loss", "cider"] = "loss"
    """Which validation score decides what the best model is; "cider" needs val_captions."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better one after which training stops; 0 never stops early."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds between checkpoints that a killed training resumes from."""
    language_model: LanguageModelConfig = LanguageModelConfig()
    self_critical: SelfCriticalConfig = SelfCriticalConfig()

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.select == "cider" and not self.val_captions:
            raise ValueError('select = "cider" needs val_captions, for example 1000')
        if self.self_critical.epochs and self.select != "cider":
            raise ValueError('self_critical needs select = "cider": a reward raises CIDEr and not the likelihood')
        return self


class CaptionConfig(Section):
    method: Literal["beam", "sample", "published"] = "beam"
    """Beam search, random sampling, or the beam search of the published code (which stops at a full stop)."""
    beam_size: Positive = 5
    """Beams; 1 is greedy."""
    num_captions: Positive = 1
    """Captions for an image, best first; beam search needs as many beams."""
    max_new_tokens: Positive = 67
    """Longest caption in tokens."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest caption in tokens, the end not counted."""
    length_penalty: float = 1.0
    """A hypothesis scores log-probability / length ** length_penalty."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1, tokens that a caption has already become less likely (Keskar et al. 2019)."""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No sequence of so many tokens twice in a caption; 0 allows all."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling: below 1 is more careful."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sampling: only from the K likeliest tokens; 0 from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sampling: only from the fewest tokens that hold this mass (nucleus, Holtzman et al. 2020)."""
    seed: int = 0
    """Sampling: the same seed draws the same captions, whatever stands in the batch."""
    rerank: Share = 0.0
    """Weight of the CLIP similarity against the model's own score in choosing among the candidates; 0 has none."""
    candidates: Annotated[int, Field(ge=0)] = 0
    """Captions among which rerank chooses; 0: all beams."""
    precision: Precision = "auto"
    """Of the language model; "auto" is bfloat16 on a GPU that has it, else float32."""
    clip_score: bool = True
    """Score each caption against its image (CLIPScore), by the model's encoder; null where that has no text tower."""
    batch_size: Positive = 64
    """Images decoded together."""
