-- one row per image, caption and encoder
create table source_text_embeddings (
    sample_key varchar,
    caption_number integer,
    caption varchar,
    clip_embedding float[],
    file varchar
);

comment on table source_text_embeddings is 'One row per image, reference caption and encoder: text_embeddings/<encoder_id>/<batch_id>/<shard_id>.parquet.';
comment on column source_text_embeddings.sample_key is 'The image.';
comment on column source_text_embeddings.caption_number is 'Which of its captions, from 0.';
comment on column source_text_embeddings.caption is 'The caption.';
comment on column source_text_embeddings.clip_embedding is 'The encoder''s output for the caption (stored as float16).';
comment on column source_text_embeddings.file is 'The file, relative to the lake.';
