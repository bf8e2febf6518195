-- one row per model, run, image and metric
create view metrics_per_image as
select per_image.model_id, per_image.run_id, per_image.sample_key, image.image_url, image.batch_id, image.split,
    per_image.metric, per_image.value
from source_per_image as per_image
left join source_shards as image using (sample_key);

comment on view metrics_per_image is 'One row per model, run, image and metric.';
comment on column metrics_per_image.model_id is 'The evaluated model.';
comment on column metrics_per_image.run_id is 'The run that evaluated it.';
comment on column metrics_per_image.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column metrics_per_image.image_url is 'Where the image comes from.';
comment on column metrics_per_image.batch_id is 'The batch that the image landed with.';
comment on column metrics_per_image.split is 'Karpathy split: train, restval, val, test; empty where the source names none.';
comment on column metrics_per_image.metric is 'Name of the metric.';
comment on column metrics_per_image.value is 'Value on this image.';
