-- one row per image and model; an empty caption is none, the ledger tells of it
create view captions as
select
    caption.sample_key,
    image.url as image_url,
    caption.caption,
    caption.model_id,
    caption.run_id,
    caption.batch_id,
    caption.shard_id,
    image.split,
    caption.clip_score,
    caption.log_probability,
    caption.tokens,
    caption.created_at
from source_captions as caption
left join source_urls as image using (sample_key)
where caption.caption <> '';

comment on view captions is 'One row per image and model: the captions.';
comment on column captions.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column captions.image_url is 'Where the image comes from.';
comment on column captions.caption is 'The caption.';
comment on column captions.model_id is 'The model that wrote it.';
comment on column captions.run_id is 'The run that wrote it.';
comment on column captions.batch_id is 'The batch that the image landed with.';
comment on column captions.shard_id is 'The shard that the image was downloaded into.';
comment on column captions.split is 'Karpathy split: train, restval, val, test; empty where the source names none.';
comment on column captions.clip_score is 'CLIPScore, 0 to 2.5: how well the caption fits the image, by the encoder that embedded it; null where it was not scored.';
comment on column captions.log_probability is 'Sum over its tokens (natural logarithm).';
comment on column captions.tokens is 'Tokens of the caption.';
comment on column captions.created_at is 'When it was written.';
