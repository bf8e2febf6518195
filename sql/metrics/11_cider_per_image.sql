-- Grain: one row for each image: value is CIDEr-D, 0 to 10.
-- tf is the raw count, and idf counts the evaluated images (07_common_ngrams.sql), so a value depends on the whole set,
-- and an image alone scores 0. The similarity of each reference (10_similarities.sql), times a Gaussian penalty (sigma
-- 6) on the difference of bigram counts; the mean over references, times 10.
-- Reads candidates, "references" (schema: 01_candidate_ngrams.sql) and similarities.
create or replace temp table cider_per_image as
with pairs as (
    select image, text, greatest(len(c.words) - 1, 0) - greatest(len(r.words) - 1, 0) as difference
    from candidates as c
    join "references" as r using (image)
),
penalized as (
    select image, coalesce(similarity, 0) * exp(-(difference * difference)::double / (2 * 6 * 6)) as value
    from pairs
    left join similarities using (text)
)
select image, 10 * (sum((value * pow(2::double, 60))::bigint)::double / pow(2::double, 60) / count(*)) as value
from penalized
group by image;
