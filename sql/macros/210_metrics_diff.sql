-- one row per split and metric that two models were both scored by: values, difference, wins, ties, losses
-- The newest value of each model counts. Candidate minus baseline, as in comparisons and `clipcap metrics diff`. An
-- image is a win where the candidate's value is larger; all three are null for metrics that have no value of one image.
create macro metrics_diff(candidate, baseline) as table
with latest as (
    select scored.model_id, scored.split, scored.metric, scored.value, scored.images, scored.run_id
    from metrics as scored
    where scored.model_id in (candidate, baseline)
    qualify row_number() over (
        partition by scored.model_id, scored.split, scored.metric
        order by scored.created_at desc, scored.run_id desc
    ) = 1
),
pairs as (
    select a.split, a.metric, a.value as candidate_value, b.value as baseline_value, a.images as images_a, b.images as images_b,
        a.run_id as run_a, b.run_id as run_b
    from latest as a
    join latest as b on b.split = a.split and b.metric = a.metric
    where a.model_id = candidate and b.model_id = baseline
),
outcomes as (
    select
        pairs.split,
        pairs.metric,
        count(*) as images,
        count(*) filter (where a.value > b.value) as wins,
        count(*) filter (where b.value = a.value) as ties,
        count(*) filter (where a.value < b.value) as losses
    from pairs
    join source_per_image as a on a.model_id = candidate and a.run_id = pairs.run_a and a.metric = pairs.metric
    join source_per_image as b
        on b.model_id = baseline
        and b.run_id = pairs.run_b
        and b.metric = pairs.metric
        and b.sample_key = a.sample_key
    group by pairs.split, pairs.metric
)
select
    pairs.split,
    pairs.metric,
    pairs.candidate_value,
    pairs.baseline_value,
    pairs.candidate_value - pairs.baseline_value as difference,
    coalesce(outcomes.images, case when pairs.images_a = pairs.images_b then pairs.images_a end) as images,
    outcomes.wins,
    outcomes.ties,
    outcomes.losses
from pairs
left join outcomes on outcomes.split = pairs.split and outcomes.metric = pairs.metric
order by pairs.split, pairs.metric;

comment on macro table metrics_diff is 'One row per split and metric of two models: split, metric, candidate_value, baseline_value, difference (the first minus the second), images, wins, ties, losses (images on which the candidate is better, equal, worse). With intervals: the view comparisons.';
