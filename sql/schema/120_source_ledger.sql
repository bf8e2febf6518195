-- one row per input of a stage (and encoder, for embeddings; and model, for captions)
create table source_ledger (
    sample_key varchar,
    batch_id varchar,
    shard_id varchar,
    stage varchar,
    status varchar,
    reason varchar,
    image_url varchar,
    created_at timestamptz,
    file varchar
);

comment on table source_ledger is 'One row per input of a stage: ledger/<stage>/<batch_id>/<shard_id>[_<encoder or model>].parquet.';
comment on column source_ledger.sample_key is 'The image.';
comment on column source_ledger.batch_id is 'Its batch.';
comment on column source_ledger.shard_id is 'Its shard; of no meaning at stage land.';
comment on column source_ledger.stage is 'land, download, embed or caption.';
comment on column source_ledger.status is 'ok, failed, filtered, opted_out or duplicate.';
comment on column source_ledger.reason is 'Why it is not ok; empty when ok.';
comment on column source_ledger.image_url is 'Where the image comes from.';
comment on column source_ledger.created_at is 'When the outcome was known.';
comment on column source_ledger.file is 'The file, relative to the lake.';
