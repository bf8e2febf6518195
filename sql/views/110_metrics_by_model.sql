-- one row per model and split
create view metrics_by_model as
with latest as (
    select *
    from source_corpus
    qualify row_number() over (partition by model_id, split, metric order by created_at desc, run_id desc) = 1
)
select
    model_id,
    split,
    arg_max(run_id, created_at) as run_id,
    max(value) filter (where metric = 'bleu_1') as bleu_1,
    max(value) filter (where metric = 'bleu_2') as bleu_2,
    max(value) filter (where metric = 'bleu_3') as bleu_3,
    max(value) filter (where metric = 'bleu_4') as bleu_4,
    max(value) filter (where metric = 'rouge_l') as rouge_l,
    max(value) filter (where metric = 'cider') as cider,
    max(value) filter (where metric = 'cider_shuffled') as cider_shuffled,
    max(value) filter (where metric = 'distinct_1') as distinct_1,
    max(value) filter (where metric = 'distinct_2') as distinct_2,
    max(value) filter (where metric = 'vocabulary') as vocabulary,
    max(value) filter (where metric = 'unique_share') as unique_share,
    max(value) filter (where metric = 'mean_length') as mean_length,
    max(value) filter (where metric = 'clip_score') as clip_score,
    max(value) filter (where metric = 'ref_clip_score') as ref_clip_score,
    max(value) filter (where metric = 'novel_share') as novel_share,
    max(value) filter (where metric = 'meteor') as meteor,
    max(value) filter (where metric = 'spice') as spice,
    max(images) as images,
    max(created_at) as created_at
from latest
group by model_id, split;

comment on view metrics_by_model is 'One row per model and split: the newest value of each metric, one column each.';
comment on column metrics_by_model.model_id is 'The evaluated model.';
comment on column metrics_by_model.split is 'The evaluated split.';
comment on column metrics_by_model.run_id is 'The newest run that evaluated it.';
comment on column metrics_by_model.bleu_1 is 'BLEU-1 over the corpus.';
comment on column metrics_by_model.bleu_2 is 'BLEU-2 over the corpus.';
comment on column metrics_by_model.bleu_3 is 'BLEU-3 over the corpus.';
comment on column metrics_by_model.bleu_4 is 'BLEU-4 over the corpus.';
comment on column metrics_by_model.rouge_l is 'ROUGE-L, mean over images.';
comment on column metrics_by_model.cider is 'CIDEr-D, mean over images.';
comment on column metrics_by_model.cider_shuffled is 'CIDEr-D of the control with embeddings exchanged between images; null where it did not run.';
comment on column metrics_by_model.distinct_1 is 'Share of distinct words among all words.';
comment on column metrics_by_model.distinct_2 is 'Share of distinct pairs of words.';
comment on column metrics_by_model.vocabulary is 'Distinct words.';
comment on column metrics_by_model.unique_share is 'Share of captions that occur once.';
comment on column metrics_by_model.mean_length is 'Words per caption.';
comment on column metrics_by_model.clip_score is 'CLIPScore, mean over images; only comparable between models of one encoder.';
comment on column metrics_by_model.ref_clip_score is 'RefCLIPScore, mean over images.';
comment on column metrics_by_model.novel_share is 'Share of captions that are no training caption; null where these are not known.';
comment on column metrics_by_model.meteor is 'METEOR over the corpus; null where it was not asked for.';
comment on column metrics_by_model.spice is 'SPICE, mean over images; null where it was not asked for.';
comment on column metrics_by_model.images is 'Images that were scored.';
comment on column metrics_by_model.created_at is 'When it was evaluated.';
