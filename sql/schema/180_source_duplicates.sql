-- one row per image and encoder that nearly repeats an earlier image
create table source_duplicates (
    sample_key varchar,
    batch_id varchar,
    encoder_id varchar,
    duplicate_of varchar,
    cosine float,
    created_at timestamptz,
    file varchar
);

comment on table source_duplicates is 'One row per image that nearly repeats an earlier one: duplicates/<encoder_id>/<batch_id>.parquet.';
comment on column source_duplicates.sample_key is 'The image.';
comment on column source_duplicates.batch_id is 'Its batch.';
comment on column source_duplicates.encoder_id is 'The encoder whose embeddings were compared.';
comment on column source_duplicates.duplicate_of is 'The most similar image that came before it.';
comment on column source_duplicates.cosine is 'Of their embeddings.';
comment on column source_duplicates.created_at is 'When they were compared.';
comment on column source_duplicates.file is 'The file, relative to the lake.';
