-- one row per run and entry that it used
create table source_run_entries (
    run_id varchar not null,
    entry_id varchar not null
);

comment on table source_run_entries is 'One row per run and entry that it used, cached ones included.';
comment on column source_run_entries.run_id is 'The run.';
comment on column source_run_entries.entry_id is 'The entry.';
