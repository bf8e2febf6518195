-- one row per captioned image
create view latest_captions as
select
    caption.sample_key,
    caption.image_url,
    caption.caption,
    caption.model_id,
    caption.run_id,
    caption.batch_id,
    caption.shard_id,
    caption.split,
    caption.clip_score,
    caption.log_probability,
    caption.tokens,
    caption.created_at
from captions as caption
left join models as model using (model_id)
qualify row_number() over (
    partition by caption.sample_key
    order by coalesce(model.is_production, false) desc, model.created_at desc nulls last, caption.created_at desc, model_id desc
) = 1;

comment on view latest_captions is 'One row per captioned image: by the production model, else by the newest model that captioned it.';
comment on column latest_captions.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column latest_captions.image_url is 'Where the image comes from.';
comment on column latest_captions.caption is 'The caption.';
comment on column latest_captions.model_id is 'The model that wrote it.';
comment on column latest_captions.run_id is 'The run that wrote it.';
comment on column latest_captions.batch_id is 'The batch that the image landed with.';
comment on column latest_captions.shard_id is 'The shard that the image was downloaded into.';
comment on column latest_captions.split is 'Karpathy split: train, restval, val, test; empty where the source names none.';
comment on column latest_captions.clip_score is 'CLIPScore, 0 to 2.5: how well the caption fits the image, by the encoder that embedded it; null where it was not scored.';
comment on column latest_captions.log_probability is 'Sum over its tokens (natural logarithm).';
comment on column latest_captions.tokens is 'Tokens of the caption.';
comment on column latest_captions.created_at is 'When it was written.';
