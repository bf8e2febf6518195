-- one row per published run
create table source_runs (
    run_id varchar not null,
    flow varchar not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    config json
);

comment on table source_runs is 'One row per published run.';
comment on column source_runs.run_id is 'When it started (UTC) and six random hex digits.';
comment on column source_runs.flow is 'The flow that ran.';
comment on column source_runs.started_at is 'Start.';
comment on column source_runs.finished_at is 'End, just before it was published.';
comment on column source_runs.config is 'The whole configuration.';
