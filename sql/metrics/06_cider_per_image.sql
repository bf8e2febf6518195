-- Grain: one row for each image: value is CIDEr-D, 0 to 10.
-- tf is the raw count; idf = ln(images) - ln(max(1, df)), df = images with the n-gram in any reference, so a value
-- depends on the whole evaluated set, and an image alone scores 0. For each reference and order the clipped cosine,
-- times a Gaussian penalty (sigma 6) on the difference of bigram counts; the mean over orders and references, times 10.
-- Reads candidates, "references" (schema: 01_candidate_ngrams.sql), candidate_ngrams and reference_ngrams.
create or replace temp table cider_per_image as
with documents as (
    select ngram, count(distinct key) as df
    from reference_ngrams
    group by ngram
),
images as (
    select ln(count(*)::double) as log_images
    from candidates
),
candidate_weights as (
    select key, n, ngram, count * (log_images - ln(greatest(1, coalesce(df, 0))::double)) as weight
    from candidate_ngrams
    left join documents using (ngram)
    cross join images
),
reference_weights as (
    select key, ordinal, n, ngram, count * (log_images - ln(df::double)) as weight
    from reference_ngrams
    join documents using (ngram)
    cross join images
),
candidate_norms as (
    select key, n, sqrt(sum(weight * weight)) as norm
    from candidate_weights
    group by all
),
reference_norms as (
    select key, ordinal, n, sqrt(sum(weight * weight)) as norm
    from reference_weights
    group by all
),
products as (
    select key, r.ordinal, n, sum(least(c.weight, r.weight) * r.weight) as product
    from candidate_weights as c
    join reference_weights as r using (key, n, ngram)
    group by all
),
cosines as (
    -- A norm of zero (every n-gram stands in every image) makes the product zero too.
    select key, ordinal, coalesce(product / nullif(c.norm * r.norm, 0), 0) as cosine
    from products
    join candidate_norms as c using (key, n)
    join reference_norms as r using (key, ordinal, n)
),
similarities as (
    select key, ordinal, sum(cosine) / 4 as similarity
    from cosines
    group by all
),
lengths as (
    select
        key,
        ordinal,
        greatest(len(candidates.tokens) - 1, 0) - greatest(len("references".tokens) - 1, 0) as difference
    from candidates
    join "references" using (key)
)
select
    key,
    10 * avg(coalesce(similarity, 0) * exp(-(difference * difference)::double / (2 * 6 * 6))) as value
from lengths
left join similarities using (key, ordinal)
group by key;
