-- the words of an n-gram → its number, 31 bits for each word, in one hugeint
-- For any number of words. Nothing is hashed, so nothing collides.
create or replace temp macro one_word(word) as word::hugeint;

create or replace temp macro followed_by(ngram, word) as ngram << 31 | word;
