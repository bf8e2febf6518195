-- one row per model, run, image and metric
create table source_per_image (
    model_id varchar,
    run_id varchar,
    sample_key varchar,
    metric varchar,
    value double,
    file varchar
);

comment on table source_per_image is 'One row per model, run, image and metric: metrics/<model_id>/<run_id>/per_image.parquet.';
comment on column source_per_image.model_id is 'The evaluated model.';
comment on column source_per_image.run_id is 'The run that evaluated it.';
comment on column source_per_image.sample_key is 'The image.';
comment on column source_per_image.metric is 'Name of the metric.';
comment on column source_per_image.value is 'Its share of the corpus metric.';
comment on column source_per_image.file is 'The file, relative to the lake.';
