-- one row per image that two models caption differently, the most changed first
-- `change` is the share of their words that only one of the two captions has (Jaccard distance of the sets of words).
create macro caption_changes(model_a, model_b) as table
with pairs as (
    select
        a.sample_key,
        a.image_url,
        a.split,
        a.caption as caption_a,
        b.caption as caption_b,
        a.clip_score as clip_score_a,
        b.clip_score as clip_score_b,
        b.clip_score - a.clip_score as clip_score_difference,
        list_distinct(regexp_extract_all(lower(a.caption), '[\p{L}\p{N}]+')) as words_a,
        list_distinct(regexp_extract_all(lower(b.caption), '[\p{L}\p{N}]+')) as words_b
    from captions as a
    join captions as b on b.sample_key = a.sample_key
    where a.model_id = model_a and b.model_id = model_b and a.caption <> b.caption
)
select
    pairs.sample_key,
    pairs.image_url,
    pairs.caption_a,
    pairs.caption_b,
    round(
        1 - len(list_intersect(pairs.words_a, pairs.words_b))
            / greatest(len(list_distinct(list_concat(pairs.words_a, pairs.words_b))), 1),
        4
    ) as change,
    pairs.clip_score_a,
    pairs.clip_score_b,
    pairs.clip_score_difference,
    pairs.split
from pairs
order by change desc, pairs.sample_key;

comment on macro table caption_changes is 'One row per image that two models caption differently: sample_key, image_url, caption_a, caption_b, change (share of words that only one has), clip_score_a, clip_score_b, clip_score_difference (b minus a), split.';
