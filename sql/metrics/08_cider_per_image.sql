-- Grain: one row for each image: value is CIDEr-D, 0 to 10.
-- tf is the raw count, and idf counts the evaluated images (07_common_ngrams.sql), so a value depends on the whole set,
-- and an image alone scores 0. For each reference and order the clipped cosine, times a Gaussian penalty (sigma 6) on
-- the difference of bigram counts; the mean over orders and references, times 10.
-- Reads candidates, "references" (schema: 01_candidate_ngrams.sql), candidate_ngrams, reference_ngrams, matches and
-- common_ngrams.
create or replace temp table cider_per_image as
with rare as (
    select (pow(ln(count(*)::double), 2) * pow(2::double, 64))::hugeint as squared_idf
    from candidates
),
candidate_norms as (
    select
        image,
        n,
        sqrt(sum(count * count * coalesce(common_ngrams.squared_idf, rare.squared_idf))::double) as norm
    from candidate_ngrams
    left join common_ngrams using (ngram)
    cross join rare
    group by all
),
reference_norms as (
    select
        text,
        n,
        sqrt(sum(count * count * coalesce(common_ngrams.squared_idf, rare.squared_idf))::double) as norm
    from reference_ngrams
    left join common_ngrams using (ngram)
    cross join rare
    group by all
),
products as (
    select
        image,
        text,
        n,
        sum(
            least(candidate_count, reference_count)
            * reference_count
            * coalesce(common_ngrams.squared_idf, rare.squared_idf)
        )::double as product
    from matches
    left join common_ngrams using (ngram)
    cross join rare
    group by all
),
similarities as (
    -- A norm of zero (every n-gram stands in every image) makes the product zero too. No norm is ever missing; but
    -- left joins are made in the order written, and the two norms joined first, by n alone, would be a cross product.
    select text, sum((coalesce(product / nullif(c.norm * r.norm, 0), 0) * pow(2::double, 60))::bigint)::double as quadruple
    from products
    left join candidate_norms as c using (image, n)
    left join reference_norms as r using (text, n)
    group by text
),
pairs as (
    select image, text, greatest(len(c.words) - 1, 0) - greatest(len(r.words) - 1, 0) as difference
    from candidates as c
    join "references" as r using (image)
)
select
    image,
    10 / 4::double / count(*) / pow(2::double, 60)
    * sum((coalesce(quadruple, 0) * exp(-(difference * difference)::double / (2 * 6 * 6)))::hugeint)::double as value
from pairs
left join similarities using (text)
group by image;
