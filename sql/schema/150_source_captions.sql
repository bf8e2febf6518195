-- one row per image and model
create table source_captions (
    sample_key varchar,
    batch_id varchar,
    shard_id varchar,
    model_id varchar,
    run_id varchar,
    caption varchar,
    log_probability double,
    tokens integer,
    clip_score double,
    created_at timestamptz,
    file varchar
);

comment on table source_captions is 'One row per image and model: captions/<model_id>/<run_id>/<shard_id>.parquet.';
comment on column source_captions.sample_key is 'The image.';
comment on column source_captions.batch_id is 'Its batch.';
comment on column source_captions.shard_id is 'Its shard.';
comment on column source_captions.model_id is 'The model that wrote the caption.';
comment on column source_captions.run_id is 'The run that wrote the caption.';
comment on column source_captions.caption is 'The caption.';
comment on column source_captions.log_probability is 'Sum over its tokens (natural logarithm).';
comment on column source_captions.tokens is 'Tokens of the caption.';
comment on column source_captions.clip_score is 'CLIPScore, 0 to 2.5: how well the caption fits the image, by the encoder that embedded it; null where it was not scored.';
comment on column source_captions.created_at is 'When it was written.';
comment on column source_captions.file is 'The file, relative to the lake.';
