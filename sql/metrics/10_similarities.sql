-- Grain: one row for each reference that shares a word with its image's candidate: the mean over n = 1 to 4 of the
-- clipped cosines of their vectors. A reference without a row is not similar at all.
-- Reads candidates (schema: 01_candidate_ngrams.sql), matches, common_ngrams, candidate_norms and reference_norms.
create or replace temp table similarities as
with rare as (
    select (pow(ln(count(*)::double), 2) * pow(2::double, 64))::hugeint as squared_idf
    from candidates
),
terms as (
    select
        image,
        text,
        n,
        least(candidate_count, reference_count)
        * reference_count
        * coalesce(common_ngrams.squared_idf, rare.squared_idf) as term
    from matches
    left join common_ngrams using (ngram)
    cross join rare
),
products as (
    select
        image,
        text,
        sum(term) filter (n = 1)::double as product_1,
        sum(term) filter (n = 2)::double as product_2,
        sum(term) filter (n = 3)::double as product_3,
        sum(term) filter (n = 4)::double as product_4
    from terms
    group by image, text
)
-- A norm of zero (every n-gram stands in every image) makes the product zero, too.
select
    text,
    (
        coalesce(product_1 / nullif(c.norm_1 * r.norm_1, 0), 0)
        + coalesce(product_2 / nullif(c.norm_2 * r.norm_2, 0), 0)
        + coalesce(product_3 / nullif(c.norm_3 * r.norm_3, 0), 0)
        + coalesce(product_4 / nullif(c.norm_4 * r.norm_4, 0), 0)
    ) / 4 as similarity
from products
join candidate_norms as c using (image)
join reference_norms as r using (text);
