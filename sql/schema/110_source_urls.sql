-- one row per landed row with status ok
create table source_urls (
    sample_key varchar,
    url varchar,
    captions varchar[],
    split varchar,
    source_row bigint,
    licence varchar,
    source varchar,
    file varchar
);

comment on table source_urls is 'One row per landed row with status ok: batches/<batch_id>/urls.parquet.';
comment on column source_urls.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column source_urls.url is 'Where the image comes from.';
comment on column source_urls.captions is 'Reference captions; empty where the source has none.';
comment on column source_urls.split is 'Karpathy split: train, restval, val, test; empty where the source names none.';
comment on column source_urls.source_row is 'Row in the source.';
comment on column source_urls.licence is 'As the source says it; null where it says none.';
comment on column source_urls.source is 'Whom or what the source credits: an author, a collection; null where it credits nobody.';
comment on column source_urls.file is 'The file, relative to the lake.';
