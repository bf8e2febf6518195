-- one row per embedding that is no vector to compare: of length zero, with a part that is no number, or of another size
-- severity: error
-- The size of an encoder's vectors is that of most of them: manifests record the size of what models read, which may be
-- features that stand beside the vector.
with lengths as materialized (
    select
        sample_key,
        string_split(file, '/')[2] as encoder_id,
        len(clip_embedding) as numbers,
        list_inner_product(clip_embedding, clip_embedding) as squared_length,
        file
    from source_embeddings
),
sizes as (
    select encoder_id, mode(numbers) as most_have from lengths group by encoder_id
)
select lengths.sample_key, lengths.encoder_id, lengths.numbers, sizes.most_have, lengths.squared_length, lengths.file
from lengths
join sizes using (encoder_id)
where
    lengths.squared_length is null
    or not isfinite(lengths.squared_length)
    or lengths.squared_length = 0
    or lengths.numbers <> sizes.most_have
order by lengths.encoder_id, lengths.sample_key;
