-- one row per model whose CLIPScores, of at least 50, lie within least_spread between their quartiles
-- severity: error
-- Scores of real captions spread over a tenth and more. All of them (nearly) the same, or all 0, means that they are no
-- scores: another encoder's vectors, vectors of other images, one vector for all. Quartiles, because a few outliers must
-- neither hide that nor feign it.
with spread as (
    select
        model_id,
        count(*) as images,
        quantile_cont(clip_score, 0.25) as lower_quartile,
        quantile_cont(clip_score, 0.75) as upper_quartile
    from source_captions
    where isfinite(clip_score)
    group by model_id
)
select model_id, images, lower_quartile, upper_quartile
from spread
where images >= 50 and upper_quartile - lower_quartile < coalesce(getvariable('least_spread'), 0.002)
order by model_id;
