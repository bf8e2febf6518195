-- one row per image and encoder that nearly repeats an earlier image
create view near_duplicates as
select
    found.sample_key,
    image.image_url,
    found.duplicate_of,
    earlier.image_url as duplicate_of_url,
    found.cosine,
    image.sha256 = earlier.sha256 and image.sha256 <> '' as is_exact,
    found.batch_id,
    found.encoder_id,
    found.created_at
from source_duplicates as found
join source_shards as image using (sample_key)
join source_shards as earlier on earlier.sample_key = found.duplicate_of;

comment on view near_duplicates is 'One row per image and encoder that nearly repeats an earlier image (embed.near_duplicates).';
comment on column near_duplicates.sample_key is 'The image that came later.';
comment on column near_duplicates.image_url is 'Where it came from.';
comment on column near_duplicates.duplicate_of is 'The most similar image that came before it, in this batch or an earlier one.';
comment on column near_duplicates.duplicate_of_url is 'Where that one came from.';
comment on column near_duplicates.cosine is 'Cosine of their embeddings.';
comment on column near_duplicates.is_exact is 'Whether both have the same bytes.';
comment on column near_duplicates.batch_id is 'Batch of the later image.';
comment on column near_duplicates.encoder_id is 'The encoder whose embeddings were compared.';
comment on column near_duplicates.created_at is 'When they were compared.';
