-- Grain: one row for each n-gram that the references of at least two images have: its squared idf, in units of 2^-64.
-- idf = ln(images) - ln(images with the n-gram in any reference). An n-gram that one image has, or none, weighs
-- ln(images): most are such, and need no row.
-- Reads candidates (schema: 01_candidate_ngrams.sql) and reference_ngrams.
create or replace temp table common_ngrams as
with documents as (
    select distinct image, ngram
    from reference_ngrams
),
common as (
    select ngram, ln(count(*)::double) as log_documents
    from documents
    group by ngram
    having count(*) > 1
),
images as (
    select ln(count(*)::double) as log_images
    from candidates
)
select ngram, (pow(log_images - log_documents, 2) * pow(2::double, 64))::hugeint as squared_idf
from common
cross join images;
