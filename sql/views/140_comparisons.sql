-- one row per candidate, baseline, split and metric: the newest comparison
create view comparisons as
select
    candidate_model_id,
    baseline_model_id,
    split,
    metric,
    candidate_value,
    baseline_value,
    difference,
    low,
    high,
    images,
    wins,
    ties,
    losses,
    run_id,
    created_at
from source_comparisons
qualify row_number() over (
    partition by candidate_model_id, baseline_model_id, split, metric
    order by created_at desc, run_id desc
) = 1;

comment on view comparisons is 'One row per candidate, baseline, split and metric: two models on the same images, by paired bootstrap.';
comment on column comparisons.candidate_model_id is 'The model that is held against another.';
comment on column comparisons.baseline_model_id is 'The other model; the one in production where a run compared by itself.';
comment on column comparisons.split is 'The split whose images both were scored on.';
comment on column comparisons.metric is 'Name of the metric, as in the view metrics.';
comment on column comparisons.candidate_value is 'The candidate''s value.';
comment on column comparisons.baseline_value is 'The baseline''s value.';
comment on column comparisons.difference is 'The candidate''s value minus the baseline''s: above 0 the candidate has more of it.';
comment on column comparisons.low is 'Lower end of the interval of the difference (evaluate.confidence); above 0 the candidate is better beyond the chance of the images. Null for metrics that have none.';
comment on column comparisons.high is 'Upper end of the interval; below 0 the candidate is worse beyond the chance of the images.';
comment on column comparisons.images is 'Images that both were scored on.';
comment on column comparisons.wins is 'Images on which the candidate''s own value is higher; null for metrics that one image has no value of.';
comment on column comparisons.ties is 'Images on which both have the same value.';
comment on column comparisons.losses is 'Images on which the baseline''s own value is higher.';
comment on column comparisons.run_id is 'The run that compared them.';
comment on column comparisons.created_at is 'When they were compared.';
