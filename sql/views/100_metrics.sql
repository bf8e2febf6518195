-- one row per model, run, split and metric
create view metrics as
select model_id, run_id, split, metric, value, low, high, images, created_at
from source_corpus;

comment on view metrics is 'One row per model, run, split and metric.';
comment on column metrics.model_id is 'The evaluated model.';
comment on column metrics.run_id is 'The run that evaluated it.';
comment on column metrics.split is 'The evaluated split.';
comment on column metrics.metric is 'bleu_1 … bleu_4, rouge_l, cider, distinct_1, distinct_2, vocabulary, unique_share, mean_length; clip_score, ref_clip_score, novel_share, meteor, spice where they were computed; with _shuffled at its end the control with embeddings exchanged between images.';
comment on column metrics.value is 'As the reference implementation gives it: fractions, CIDEr times 10.';
comment on column metrics.low is 'Lower end of its bootstrap interval over the images (evaluate.confidence); null for metrics that have none, as the number of different words.';
comment on column metrics.high is 'Upper end of the interval.';
comment on column metrics.images is 'Images that were scored.';
comment on column metrics.created_at is 'When it was evaluated.';
