-- one row per image, the k whose embeddings have the largest cosine with a vector of the same encoder
-- list_cosine_similarity takes FLOAT[] of any length, so no dimension stands here. Vectors of length zero have no cosine.
create macro nearest_to(vector, k := 10, encoder := '') as table
with asked as (
    select vector::float[] as clip_embedding
),
found as (
    select
        embedding.sample_key,
        embedding.encoder_id,
        list_cosine_similarity(embedding.clip_embedding, asked.clip_embedding) as cosine
    from embeddings as embedding
    cross join asked
    where
        embedding.encoder_id = chosen_encoder(encoder)
        and len(embedding.clip_embedding) = len(asked.clip_embedding)
),
nearest as (
    select found.sample_key, found.encoder_id, found.cosine
    from found
    where isfinite(found.cosine)
    order by found.cosine desc, found.sample_key
    limit k
),
captioned as (
    select
        caption.sample_key,
        max_by(caption.caption, (caption.model_id = chosen_model(''), caption.created_at)) as caption
    from captions as caption
    where caption.sample_key in (select nearest.sample_key from nearest)
    group by caption.sample_key
)
select
    row_number() over (order by nearest.cosine desc, nearest.sample_key) as rank,
    nearest.cosine,
    captioned.caption,
    image.url as image_url,
    nearest.sample_key,
    nearest.encoder_id
from nearest
left join captioned on captioned.sample_key = nearest.sample_key
left join source_urls as image on image.sample_key = nearest.sample_key
order by rank;

comment on macro table nearest_to is 'One row per image, the k nearest to a vector (FLOAT[]) by cosine: rank, cosine, caption, image_url, sample_key, encoder_id. The vector must come from that encoder.';
