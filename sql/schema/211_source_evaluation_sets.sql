-- one row per image and frozen evaluation set
create table source_evaluation_sets (
    sample_key varchar,
    batch_id varchar,
    shard_id varchar,
    sha256 varchar,
    captions varchar[],
    split varchar,
    source_split varchar,
    file varchar
);

comment on table source_evaluation_sets is 'One row per image and frozen evaluation set: evaluation_sets/<name>.parquet.';
comment on column source_evaluation_sets.sample_key is 'The image.';
comment on column source_evaluation_sets.batch_id is 'Its batch.';
comment on column source_evaluation_sets.shard_id is 'The shard that it was in when it was frozen.';
comment on column source_evaluation_sets.sha256 is 'Of the image''s bytes.';
comment on column source_evaluation_sets.captions is 'The references.';
comment on column source_evaluation_sets.split is 'frozen-<name>: what stands as the split of scores on the set.';
comment on column source_evaluation_sets.source_split is 'The split that it was taken from.';
comment on column source_evaluation_sets.file is 'The file, relative to the lake.';
