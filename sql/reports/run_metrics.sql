-- one row per split and metric of the model $model_id in the run $run_id, beside its control and the model $baseline_id
with used as (
    select distinct on (corpus.split, corpus.metric)
        corpus.split, corpus.metric, corpus.value, corpus.low, corpus.high, corpus.images, corpus.created_at
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_corpus as corpus on corpus.file = file.path
    where link.run_id = $run_id and corpus.model_id = $model_id
    order by corpus.created_at desc
),
baseline as (
    select distinct on (split, metric) split, metric, value, low, high, images
    from source_corpus
    where model_id = $baseline_id
    order by created_at desc
)
select
    this.split,
    this.metric,
    this.value,
    this.low,
    this.high,
    this.images,
    control.value as control,
    baseline.value as baseline_value,
    baseline.low as baseline_low,
    baseline.high as baseline_high,
    baseline.images as baseline_images
from used as this
left join used as control on control.split = this.split and control.metric = this.metric || '_shuffled'
left join baseline on baseline.split = this.split and baseline.metric = this.metric
where not ends_with(this.metric, '_shuffled')
order by this.split, this.metric;
