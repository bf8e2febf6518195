-- one row per candidate, baseline, run, split and metric
create table source_comparisons (
    candidate_model_id varchar,
    baseline_model_id varchar,
    run_id varchar,
    split varchar,
    metric varchar,
    candidate_value double,
    baseline_value double,
    difference double,
    low double,
    high double,
    images bigint,
    wins bigint,
    ties bigint,
    losses bigint,
    created_at timestamptz,
    file varchar
);

comment on table source_comparisons is 'One row per candidate, baseline, run, split and metric: metrics/<candidate>/<run_id>/versus_<baseline>.parquet.';
comment on column source_comparisons.candidate_model_id is 'The model that is held against another.';
comment on column source_comparisons.baseline_model_id is 'The other model.';
comment on column source_comparisons.run_id is 'The run that compared them.';
comment on column source_comparisons.split is 'The split whose images both were scored on.';
comment on column source_comparisons.metric is 'Name of the metric.';
comment on column source_comparisons.candidate_value is 'The candidate''s.';
comment on column source_comparisons.baseline_value is 'The baseline''s.';
comment on column source_comparisons.difference is 'The candidate''s value minus the baseline''s.';
comment on column source_comparisons.low is 'Lower end of the paired bootstrap interval of the difference; null where the metric has none.';
comment on column source_comparisons.high is 'Upper end of the interval.';
comment on column source_comparisons.images is 'Images that both were scored on.';
comment on column source_comparisons.wins is 'Images on which the candidate''s own value is higher; null where one image has no value.';
comment on column source_comparisons.ties is 'Images on which both have the same value.';
comment on column source_comparisons.losses is 'Images on which the baseline''s own value is higher.';
comment on column source_comparisons.created_at is 'When they were compared.';
comment on column source_comparisons.file is 'The file, relative to the lake.';
