// joined: a word of codes of a block whose codes begin two bytes after the block does. In an even block that is the
// middle of a word, so that `low` has the first half in its high bits, and `high` the rest; in an odd block `high` has
// all.

fn joined(low: u32, high: u32, odd: bool) -> u32 {
    return select((low >> 16u) | (high << 16u), high, odd);
}
