-- one row per model, run, split and metric
create table source_corpus (
    model_id varchar,
    run_id varchar,
    split varchar,
    metric varchar,
    value double,
    low double,
    high double,
    images bigint,
    created_at timestamptz,
    file varchar
);

comment on table source_corpus is 'One row per model, run, split and metric: metrics/<model_id>/<run_id>/corpus.parquet.';
comment on column source_corpus.model_id is 'The evaluated model.';
comment on column source_corpus.run_id is 'The run that evaluated it.';
comment on column source_corpus.split is 'The evaluated split.';
comment on column source_corpus.metric is 'Name of the metric; _shuffled at its end means the control with embeddings exchanged between images.';
comment on column source_corpus.value is 'As the reference implementation gives it (fractions, CIDEr times 10).';
comment on column source_corpus.low is 'Lower end of its bootstrap interval over the images; null where it has none.';
comment on column source_corpus.high is 'Upper end of the interval.';
comment on column source_corpus.images is 'Images that were scored.';
comment on column source_corpus.created_at is 'When it was evaluated.';
comment on column source_corpus.file is 'The file, relative to the lake.';
