-- Grain: one row for each reference: its tokens and those of its image's candidate, as ROUGE-L reads them.
-- Reads candidates and "references" with their column tokens (00_candidates.sql, 00_references.sql).
create or replace temp view rouge_pairs as
select image, coalesce(c.tokens, c.words) as candidate, coalesce(r.tokens, r.words) as reference
from "references" as r
join candidates as c using (image);
