-- one row per embedded image and encoder
create table source_embeddings (
    sample_key varchar,
    sha256 varchar,
    clip_embedding float[],
    file varchar
);

comment on table source_embeddings is 'One row per embedded image and encoder: embeddings/<encoder_id>/<batch_id>/<shard_id>.parquet.';
comment on column source_embeddings.sample_key is 'The image.';
comment on column source_embeddings.sha256 is 'Of the image''s bytes.';
comment on column source_embeddings.clip_embedding is 'The encoder''s output (stored as float16); cast to FLOAT[512], or the model''s clip_dim, for array functions.';
comment on column source_embeddings.file is 'The file, relative to the lake.';
