-- one row per split and metric that two models were both scored by: values, difference (b minus a), wins, ties, losses
-- The newest value of each model counts. An image is a win where b's value is larger than a's; wins, ties and losses are
-- null for metrics that have no value of a single image.
create macro metrics_diff(model_a, model_b) as table
with latest as (
    select scored.model_id, scored.split, scored.metric, scored.value, scored.images, scored.run_id
    from metrics as scored
    where scored.model_id in (model_a, model_b)
    qualify row_number() over (
        partition by scored.model_id, scored.split, scored.metric
        order by scored.created_at desc, scored.run_id desc
    ) = 1
),
pairs as (
    select a.split, a.metric, a.value as value_a, b.value as value_b, a.images as images_a, b.images as images_b,
        a.run_id as run_a, b.run_id as run_b
    from latest as a
    join latest as b on b.split = a.split and b.metric = a.metric
    where a.model_id = model_a and b.model_id = model_b
),
outcomes as (
    select
        pairs.split,
        pairs.metric,
        count(*) as images,
        count(*) filter (where b.value > a.value) as wins,
        count(*) filter (where b.value = a.value) as ties,
        count(*) filter (where b.value < a.value) as losses
    from pairs
    join source_per_image as a on a.model_id = model_a and a.run_id = pairs.run_a and a.metric = pairs.metric
    join source_per_image as b
        on b.model_id = model_b
        and b.run_id = pairs.run_b
        and b.metric = pairs.metric
        and b.sample_key = a.sample_key
    group by pairs.split, pairs.metric
)
select
    pairs.split,
    pairs.metric,
    pairs.value_a,
    pairs.value_b,
    pairs.value_b - pairs.value_a as difference,
    coalesce(outcomes.images, case when pairs.images_a = pairs.images_b then pairs.images_a end) as images,
    outcomes.wins,
    outcomes.ties,
    outcomes.losses
from pairs
left join outcomes on outcomes.split = pairs.split and outcomes.metric = pairs.metric
order by pairs.split, pairs.metric;

comment on macro table metrics_diff is 'One row per split and metric of two models: split, metric, value_a, value_b, difference (b minus a), images, wins, ties, losses (images on which b is better, equal, worse). With intervals: the view comparisons.';
