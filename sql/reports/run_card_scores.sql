-- one row per image of $keys and metric: the value of the model $model_id in the run $run_id, and of $baseline_id
with this as (
    select per_image.sample_key, per_image.metric, max(per_image.value) as value
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_per_image as per_image on per_image.file = file.path
    where
        link.run_id = $run_id
        and per_image.model_id = $model_id
        and per_image.sample_key in (select unnest($keys::varchar[]))
    group by per_image.sample_key, per_image.metric
),
baseline as (
    select distinct on (sample_key, metric) sample_key, metric, value
    from source_per_image
    where model_id = $baseline_id and sample_key in (select unnest($keys::varchar[]))
    order by run_id desc
)
select sample_key, metric, this.value, baseline.value as baseline_value
from this
left join baseline using (sample_key, metric)
order by sample_key, metric;
