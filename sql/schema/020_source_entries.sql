-- one row per entry: a finished output of one stage
create table source_entries (
    entry_id varchar not null,
    stage varchar not null,
    cache_key varchar not null,
    run_id varchar not null,
    batch_id varchar,
    shard_id varchar,
    model_id varchar,
    encoder_id varchar,
    meta json,
    duration_s double not null,
    created_at timestamptz not null
);

comment on table source_entries is 'One row per finished output of a stage, as the manifest records it.';
comment on column source_entries.entry_id is 'What it is of: stage, then the batch, shard or model.';
comment on column source_entries.stage is 'land, download, embed, train, caption or evaluate.';
comment on column source_entries.cache_key is 'What it was made from: inputs, weights, preprocessing, version of the stage.';
comment on column source_entries.run_id is 'The run that made it.';
comment on column source_entries.batch_id is 'Its batch; null where the output belongs to no single one.';
comment on column source_entries.shard_id is 'Its shard; null where the output belongs to no single one.';
comment on column source_entries.model_id is 'Its model (train, caption, evaluate).';
comment on column source_entries.encoder_id is 'Its encoder (embed): <encoder>@<first 12 digits of the weights'' hash>.';
comment on column source_entries.meta is 'Everything else that the stage recorded.';
comment on column source_entries.duration_s is 'Seconds that it took to make.';
comment on column source_entries.created_at is 'When it was finished.';
