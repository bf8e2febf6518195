-- one row per caption
create view lineage as
with embedding_files as (
    select entry.shard_id, entry.encoder_id, entry.run_id, file.path
    from source_entries as entry
    join source_files as file using (entry_id)
    where entry.stage = 'embed' and file.kind = 'embeddings'
),
shard_files as (
    select entry.shard_id, entry.run_id, file.path
    from source_entries as entry
    join source_files as file using (entry_id)
    where entry.stage = 'download' and file.kind = 'shard_tar'
)
select
    caption.sample_key,
    caption.caption,
    caption.model_id,
    caption.run_id,
    model.run_id as training_run_id,
    embedding.encoder_id,
    embedding.path as embedding_file,
    embedding.run_id as embedding_run_id,
    shard.path as image_shard,
    image.member as image_member,
    image.sha256,
    urls.url as image_url,
    caption.batch_id,
    caption.shard_id,
    caption.clip_score,
    caption.created_at
from source_captions as caption
left join models as model using (model_id)
left join source_urls as urls using (sample_key)
left join source_shards as image using (sample_key)
left join embedding_files as embedding
    on embedding.shard_id = caption.shard_id
    and starts_with(model.encoder_hash, string_split(embedding.encoder_id, '@')[-1])
left join shard_files as shard on shard.shard_id = caption.shard_id
where caption.caption <> '';

comment on view lineage is 'One row per caption: caption, model, training run, embedding file, image shard, URL.';
comment on column lineage.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column lineage.caption is 'The caption.';
comment on column lineage.model_id is 'The model that wrote it.';
comment on column lineage.run_id is 'The run that wrote it.';
comment on column lineage.training_run_id is 'The run that trained the model.';
comment on column lineage.encoder_id is 'The encoder that both the model and the embedding come from.';
comment on column lineage.embedding_file is 'The file with the embedding, relative to the lake.';
comment on column lineage.embedding_run_id is 'The run that embedded the image.';
comment on column lineage.image_shard is 'The tar with the image''s bytes, relative to the lake.';
comment on column lineage.image_member is 'The name of the image in the tar.';
comment on column lineage.sha256 is 'Of the image''s bytes.';
comment on column lineage.image_url is 'Where the image comes from.';
comment on column lineage.batch_id is 'The batch that the image landed with.';
comment on column lineage.shard_id is 'The shard that the image was downloaded into.';
comment on column lineage.clip_score is 'CLIPScore, 0 to 2.5: how well the caption fits the image, by the encoder that embedded it; null where it was not scored.';
comment on column lineage.created_at is 'When the caption was written.';
