-- one row per image of $keys: where its caption by the model $model_id comes from
select
    sample_key, any_value(run_id) as run_id, any_value(training_run_id) as training_run_id, any_value(encoder_id) as encoder_id,
    any_value(embedding_file) as embedding_file, any_value(image_shard) as image_shard, any_value(image_member) as image_member
from lineage
where model_id = $model_id and sample_key in (select unnest($keys::varchar[]))
group by sample_key;
