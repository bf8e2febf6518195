-- one row per image, the k whose embeddings are nearest to that of the image sample_key, itself left out
create macro similar_to(sample_key, k := 10, encoder := '') as table
select
    row_number() over (order by near.rank) as rank,
    near.cosine,
    near.caption,
    near.image_url,
    near.sample_key,
    near.encoder_id
from nearest_to(vector_of(sample_key, encoder), k + 1, encoder) as near
where near.sample_key <> sample_key
order by rank
limit k;

comment on macro table similar_to is 'One row per image, the k most similar to an image by cosine of their embeddings: rank, cosine, caption, image_url, sample_key, encoder_id.';
