-- one row: where the caption of $sample_key by $model_id comes from
select caption, model_id, training_run_id, run_id, encoder_id, embedding_file, image_shard, image_member, sha256, image_url
from lineage
where sample_key = $sample_key and model_id = $model_id
limit 1;
