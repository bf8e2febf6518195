-- one row per entry and status
create table source_entry_rows (
    entry_id varchar not null,
    status varchar not null,
    rows bigint not null
);

comment on table source_entry_rows is 'One row per entry and status: how many of its inputs ended so, counted by the stage itself.';
comment on column source_entry_rows.entry_id is 'The entry.';
comment on column source_entry_rows.status is 'ok, failed, filtered, opted_out or duplicate.';
comment on column source_entry_rows.rows is 'Inputs of the stage with that status.';
