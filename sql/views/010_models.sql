-- one row per model
create view models as
with promoted as (
    select model_id, max(created_at) as promoted_at, arg_max(reason, position) as promotion_reason
    from source_promotions
    group by model_id
)
select
    entry.model_id,
    entry.run_id,
    entry.model_id = info.production_model_id as is_production,
    entry.meta ->> 'mapper' as mapper,
    entry.meta ->> 'language_model' as language_model,
    (entry.meta ->> 'tuned')::boolean as is_tuned,
    entry.meta ->> 'encoder' as encoder,
    entry.meta ->> 'encoder_hash' as encoder_hash,
    (entry.meta ->> 'clip_dim')::integer as clip_dim,
    (entry.meta ->> 'prefix_length')::integer as prefix_length,
    (entry.meta ->> 'parameters')::bigint as parameters,
    (entry.meta ->> 'best_val_loss')::double as best_val_loss,
    (entry.meta ->> 'epochs')::integer as epochs,
    nullif(entry.meta ->> 'start_model_id', '') as start_model_id,
    (entry.meta ->> 'train_images')::bigint as train_images,
    (entry.meta ->> 'train_captions')::bigint as train_captions,
    (entry.meta ->> 'val_images')::bigint as val_images,
    (entry.meta -> 'batch_ids')::varchar[] as batch_ids,
    entry.duration_s,
    entry.created_at,
    promoted.promoted_at,
    promoted.promotion_reason
from source_entries as entry
cross join catalog_info as info
left join promoted using (model_id)
where entry.stage = 'train';

comment on view models is 'One row per model: what it is made of, what it learned from, and whether it serves.';
comment on column models.model_id is 'Names the model: <dataset>-<mapper>-<hash8 of all that it was trained from>.';
comment on column models.run_id is 'The run that trained it.';
comment on column models.is_production is 'Whether it is the model promoted last.';
comment on column models.mapper is 'mlp or transformer.';
comment on column models.language_model is 'The language model it started from; scratch for one of its own.';
comment on column models.is_tuned is 'Whether the language model learned too.';
comment on column models.encoder is 'The encoder whose embeddings it reads.';
comment on column models.encoder_hash is 'Hash of the encoder''s weights.';
comment on column models.clip_dim is 'Dimension of an embedding.';
comment on column models.prefix_length is 'Vectors given to the language model.';
comment on column models.parameters is 'Trained parameters.';
comment on column models.best_val_loss is 'Lowest validation loss (nats per token); the weights kept are those.';
comment on column models.epochs is 'Passes over the captions.';
comment on column models.start_model_id is 'The model whose weights it went on from; null for one that began anew.';
comment on column models.train_images is 'Images it learned from.';
comment on column models.train_captions is 'Captions it learned from.';
comment on column models.val_images is 'Images of the validation loss.';
comment on column models.batch_ids is 'Batches it learned from.';
comment on column models.duration_s is 'Seconds that the training took.';
comment on column models.created_at is 'When it was trained.';
comment on column models.promoted_at is 'When it was last promoted; null if never.';
comment on column models.promotion_reason is 'Why it was last promoted.';
