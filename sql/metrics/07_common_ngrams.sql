-- Grain: one row for each n-gram that the references of at least two images have: its squared idf.
-- idf = ln(images) - ln(images with the n-gram in any reference). An n-gram that one image has, or none, weighs
-- ln(images): most are such, and need no row.
-- Reads candidates (schema: 01_candidate_ngrams.sql) and reference_ngrams.
create or replace temp table common_ngrams as
with documents as (
    select distinct image, n, ngram
    from reference_ngrams
),
images as (
    select ln(count(*)::double) as log_images
    from candidates
)
select n, ngram, pow(any_value(log_images) - ln(count(*)::double), 2)::decimal(38, 20) as squared_idf
from documents
cross join images
group by n, ngram
having count(*) > 1;
