// packed: reads one word of a packed row. An output row is the codes of the row, then its scales.

fn stored(plane: u32, slot: u32, word: u32) -> u32 {
    let at = plane * PLANE_WORDS;
    if word < CODE_WORDS {
        return planes[at + slot * CODE_WORDS + word];
    }
    return planes[at + SLOTS * CODE_WORDS + slot * SCALE_WORDS + (word - CODE_WORDS)];
}
