-- one row per downloaded image
create table source_shards (
    sample_key varchar,
    batch_id varchar,
    shard_id varchar,
    image_url varchar,
    member varchar,
    sha256 varchar,
    width integer,
    height integer,
    format varchar,
    size_bytes bigint,
    captions varchar[],
    split varchar,
    file varchar
);

comment on table source_shards is 'One row per downloaded image: batches/<batch_id>/shards/<shard_id>.parquet, beside the tar with the bytes.';
comment on column source_shards.sample_key is 'The image.';
comment on column source_shards.batch_id is 'Its batch.';
comment on column source_shards.shard_id is 'Its shard.';
comment on column source_shards.image_url is 'Where it was downloaded from.';
comment on column source_shards.member is 'Its name in the tar.';
comment on column source_shards.sha256 is 'Of the bytes as served.';
comment on column source_shards.width is 'Pixels, from the header.';
comment on column source_shards.height is 'Pixels, from the header.';
comment on column source_shards.format is 'File format, from the header.';
comment on column source_shards.size_bytes is 'Bytes as served.';
comment on column source_shards.captions is 'Reference captions.';
comment on column source_shards.split is 'Karpathy split.';
comment on column source_shards.file is 'The file, relative to the lake.';
