-- one row per embedding that is no vector to compare: of length zero, with a part that is no number, or too short or long
-- severity: error
with lengths as (
    select
        sample_key,
        string_split(file, '/')[2] as encoder_id,
        len(clip_embedding) as numbers,
        list_inner_product(clip_embedding, clip_embedding) as squared_length,
        file
    from source_embeddings
)
select lengths.sample_key, lengths.encoder_id, lengths.numbers, encoder.clip_dim, lengths.squared_length, lengths.file
from lengths
left join encoders as encoder using (encoder_id)
where
    lengths.squared_length is null
    or not isfinite(lengths.squared_length)
    or lengths.squared_length = 0
    or lengths.numbers <> encoder.clip_dim
order by lengths.encoder_id, lengths.sample_key;
