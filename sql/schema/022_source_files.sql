-- one row per entry and file
create table source_files (
    entry_id varchar not null,
    kind varchar not null,
    path varchar not null,
    sha256 varchar not null,
    size_bytes bigint not null
);

comment on table source_files is 'One row per entry and file that it consists of.';
comment on column source_files.entry_id is 'The entry.';
comment on column source_files.kind is 'What it is to readers: urls, ledger, shard_tar, shard, embeddings, text_embeddings, duplicates, model, captions, corpus, per_image, ngram_counts, comparison.';
comment on column source_files.path is 'Relative to the lake.';
comment on column source_files.sha256 is 'Of the file''s bytes.';
comment on column source_files.size_bytes is 'Size in bytes.';
