-- one row per encoder that has embedded images of this lake
create view encoders as
with embedded as (
    select
        entry.encoder_id,
        max_by(entry.meta ->> 'encoder', entry.created_at) as encoder,
        max_by((entry.meta ->> 'clip_dim')::integer, entry.created_at) as clip_dim,
        count(distinct entry.batch_id) as batches,
        sum(counted.rows) filter (where counted.status = 'ok') as images,
        max(entry.created_at) as created_at
    from source_entries as entry
    left join source_entry_rows as counted using (entry_id)
    where entry.stage = 'embed'
    group by entry.encoder_id
)
select
    embedded.encoder_id,
    embedded.encoder,
    embedded.clip_dim,
    coalesce(embedded.images, 0)::bigint as images,
    embedded.batches,
    exists (
        from models as model
        where model.is_production and starts_with(model.encoder_hash, string_split(embedded.encoder_id, '@')[-1])
    ) as is_production,
    embedded.created_at
from embedded;

comment on view encoders is 'One row per encoder that has embedded images of this lake.';
comment on column encoders.encoder_id is 'The encoder: <encoder>@<first 12 digits of its weights'' hash>; names its vectors in embeddings and text_embeddings.';
comment on column encoders.encoder is 'Its name, as embed.encoder in the configuration.';
comment on column encoders.clip_dim is 'Numbers in what models read of it: its vectors, or its features where its name ends in tower or tokens.';
comment on column encoders.images is 'Images that it has embedded.';
comment on column encoders.batches is 'Batches that they are of.';
comment on column encoders.is_production is 'Whether the model in production reads its vectors.';
comment on column encoders.created_at is 'When it embedded last.';
