-- the words of an n-gram → its number, 15 bits for each word, in one bigint
-- For at most 32,767 different words; smaller, and so faster, than 00_ngrams_wide.sql. Nothing is hashed, so nothing
-- collides.
create or replace temp macro one_word(word) as word::bigint;

create or replace temp macro followed_by(ngram, word) as ngram << 15 | word;
