-- Grain: no rows; macros that make the number of an n-gram from those of its words, 31 bits each, in one hugeint.
-- For any number of words. Nothing is hashed, so nothing collides.
create or replace temp macro one_word(word) as word::hugeint;

create or replace temp macro followed_by(ngram, word) as ngram << 31 | word;
