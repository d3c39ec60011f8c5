// packed: a word of the output is one of a packed row, first codes and then scales.

fn stored(plane: u32, slot: u32, word: u32) -> u32 {
    let at = plane * PLANE_WORDS;
    if word < CODE_WORDS {
        return planes[at + slot * CODE_WORDS + word];
    }
    return planes[at + SLOTS * CODE_WORDS + slot * SCALE_WORDS + (word - CODE_WORDS)];
}
