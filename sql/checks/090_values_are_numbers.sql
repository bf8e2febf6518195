-- one row per value that is not a finite number: of a caption, or of a metric (where null is none either)
-- severity: error
select 'captions' as source, sample_key, model_id, 'log_probability' as value_name, log_probability as value, file
from source_captions
where not isfinite(log_probability)

union all

select 'captions', sample_key, model_id, 'clip_score', clip_score, file
from source_captions
where not isfinite(clip_score)

union all

select 'corpus', null, model_id, metric, value, file
from source_corpus
where value is null or not isfinite(value)

union all

select 'per_image', sample_key, model_id, metric, value, file
from source_per_image
where value is null or not isfinite(value)
order by source, model_id, sample_key, value_name;
